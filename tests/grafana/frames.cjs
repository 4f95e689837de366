// From what Prometheus answers to what a panel shows, with Grafana's own code (@grafana/data).
const {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  FieldConfigOptionsRegistry,
  FieldType,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  toDataFrame,
  transformDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} = require("@grafana/data");

// The options of a field that our dashboards set. Grafana's application, not its packages, lists them.
const OPTIONS = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  noValue: stringOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
};
const OPTIONS_OF_TABLES = ["width", "minWidth", "cellOptions", "align"];
const OPTIONS_OF_CHARTS = ["lineStyle", "fillOpacity", "stacking", "lineWidth", "spanNulls"];

standardTransformersRegistry.setInit(() =>
  ["mergeTransformer", "organizeFieldsTransformer", "groupingToMatrixTransformer"].map((name) => ({
    id: standardTransformers[name].id,
    name,
    transformation: standardTransformers[name],
  }))
);

const registry = new FieldConfigOptionsRegistry(() => [
  ...Object.entries(OPTIONS).map(([id, process]) => option(id, id, process, false)),
  ...[...OPTIONS_OF_TABLES, ...OPTIONS_OF_CHARTS].map((id) =>
    option(`custom.${id}`, id, identityOverrideProcessor, true)
  ),
]);

function option(id, path, process, isCustom) {
  return { id, path, name: id, process, isCustom, override: () => null, shouldApply: () => true };
}

// The frames that Grafana's Prometheus plugin makes: a table for each query, or a frame for each series.
function framesOf(panel, results) {
  return panel.targets.flatMap((target) => {
    const series = results[target.refId] ?? [];
    if (target.format !== "table") {
      return series.map(({ metric, value, values }) => {
        const points = values ?? [value];
        return toDataFrame({
          refId: target.refId,
          name: legend(target.legendFormat, metric),
          fields: [
            { name: "Time", type: FieldType.time, values: points.map(([at]) => at * 1000) },
            {
              name: "Value",
              type: FieldType.number,
              labels: metric,
              config: { displayNameFromDS: legend(target.legendFormat, metric) },
              values: points.map(([, number]) => Number(number)),
            },
          ],
        });
      });
    }
    const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
    const value = panel.targets.length > 1 ? `Value #${target.refId}` : "Value";
    return [
      toDataFrame({
        refId: target.refId,
        fields: [
          {
            name: "Time",
            type: FieldType.time,
            values: series.map((one) => one.value[0] * 1000),
          },
          ...labels.map((name) => ({
            name,
            type: FieldType.string,
            config: { filterable: true },
            values: series.map((one) => one.metric[name] ?? ""),
          })),
          {
            name: value,
            type: FieldType.number,
            values: series.map((one) => Number(one.value[1])),
          },
        ],
      }),
    ];
  });
}

function legend(format, metric) {
  return (format ?? "").replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => metric[name] ?? "").trim();
}

// The frames of a panel with all that decides what is shown in them.
async function shown(panel, results, theme = createTheme()) {
  const frames = framesOf(panel, results).filter((frame) => frame.length);
  const data = await new Promise((resolve, reject) =>
    transformDataFrame(panel.transformations ?? [], frames, {
      interpolate: (text) => text,
    }).subscribe({ next: resolve, error: reject })
  );
  const decided = applyFieldOverrides({
    data,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registry,
    replaceVariables: (text) => text,
    theme,
    timeZone: "utc",
  });
  cacheFieldDisplayNames(decided); // as the panels do before they draw
  return decided;
}

module.exports = { shown };
