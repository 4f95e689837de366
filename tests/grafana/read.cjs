// Reads tables and large numbers as a person would: `node read.cjs < questions > texts`.
//
// The questions are a list of {panel, results, at}: a panel of a dashboard, what Prometheus answered to
// each of its queries, and when, in Unix seconds. The answers are a list of lists of lines; a colour of a cell stands in brackets.
require("./browser.cjs");
const {
  createTheme,
  formattedValueToString,
  getFieldDisplayValues,
  setTimeZoneResolver,
} = require("@grafana/data");
const { shown } = require("./frames.cjs");

const theme = createTheme();

async function read({ panel, results }) {
  const frames = await shown(panel, results, theme);
  if (!frames.some((frame) => frame.length)) {
    return [panel.fieldConfig.defaults.noValue];
  }
  return panel.type === "table" ? table(panel, frames[0]) : numbers(panel, frames);
}

function numbers(panel, frames) {
  const displays = getFieldDisplayValues({
    data: frames,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
    timeZone: "utc",
  });
  const isColoured = panel.options.colorMode !== "none";
  return displays.map(({ display }) => cell(display, isColoured));
}

function table(panel, frame) {
  const fields = frame.fields.filter((field) => !field.config.custom?.hideFrom?.viz);
  const rows = [...Array(frame.length).keys()];
  // Grafana's component sorts; all columns by which ours are sorted have numbers.
  for (const { displayName, desc } of panel.options.sortBy ?? []) {
    const by = fields.find((field) => name(field) === displayName);
    rows.sort((a, b) => (by.values[a] - by.values[b]) * (desc ? -1 : 1));
  }
  const kinds = fields.map((field) => field.config.custom?.cellOptions?.type);
  const lines = rows.map((row) =>
    fields.map((field, at) =>
      cell(field.display(field.values[row]), kinds[at] === "color-background")
    )
  );
  return columns([fields.map(name), ...lines]);
}

function name(field) {
  return field.state.displayName;
}

function cell(display, isColoured) {
  const text = formattedValueToString(display);
  const isPlain = !isColoured || !text || !/^#(?!00000000)/.test(display.color ?? "");
  return isPlain ? text : `${text} [${display.color}]`;
}

function columns(rows) {
  const widths = rows[0].map((_, at) => Math.max(...rows.map((row) => row[at].length)));
  return rows.map((row) =>
    row
      .map((text, at) => text.padEnd(widths[at]))
      .join(" | ")
      .trimEnd()
  );
}

async function main() {
  setTimeZoneResolver(() => "utc");
  const questions = JSON.parse(require("fs").readFileSync(0, "utf8"));
  Date.now = () => questions[0].at * 1000; // for times that are told as "a minute ago"
  const answers = [];
  for (const question of questions) {
    answers.push(await read(question));
  }
  process.stdout.write(JSON.stringify(answers));
}

main();
