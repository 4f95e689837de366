// Draws a dashboard as Grafana would: tables, large numbers and lines with Grafana's own components
// (@grafana/ui), from the same panels and answers as read.cjs reads. State timelines and heatmaps are
// part of Grafana's application, which no package has: those are drawn here, in the colours of the panel.
import { createTheme, dateTime, getFieldDisplayValues } from "@grafana/data";
import { BigValue, GlobalStyles, ThemeContext, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { createElement as h } from "react";
import { createRoot } from "react-dom/client";
import { shown } from "./frames.cjs";

const theme = createTheme({ colors: { mode: "dark" } });
const { colors } = theme;
const [ROW, GAP, HEADER, PADDING] = [30, 8, 32, 8];
const same = (text) => text;

const LINES = {
  drawStyle: "line",
  lineInterpolation: "linear",
  lineWidth: 2,
  fillOpacity: 0,
  gradientMode: "none",
  showPoints: "auto",
  pointSize: 5,
  axisPlacement: "auto",
  axisBorderShow: false,
  scaleDistribution: { type: "linear" },
  hideFrom: { legend: false, tooltip: false, viz: false },
  stacking: { mode: "none", group: "A" },
  thresholdsStyle: { mode: "off" },
};

function Panel({ place, panel, frames, width, timeRange }) {
  const column = width / 24;
  const box = {
    position: "absolute",
    left: place.x * column + GAP / 2,
    top: place.y * (ROW + GAP),
    width: place.w * column - GAP,
    height: place.h * (ROW + GAP) - GAP,
  };
  if (panel.type === "row") {
    return h("div", { style: { ...box, padding: "4px 8px", fontWeight: 500 } }, `▾ ${panel.title}`);
  }
  const inner = { width: box.width - 2 * PADDING, height: box.height - HEADER - PADDING };
  const style = {
    ...box,
    background: colors.background.primary,
    border: `1px solid ${colors.border.weak}`,
    borderRadius: 4,
  };
  const head = { height: HEADER, padding: "8px 8px 0", fontSize: 14, fontWeight: 500 };
  const isEmpty = !frames.some((frame) => frame.length);
  const body = isEmpty
    ? h("div", { style: centred(inner) }, panel.fieldConfig.defaults.noValue)
    : h(KINDS[panel.type], { panel, frames, ...inner, timeRange });
  return h(
    "div",
    { style },
    h("div", { style: head }, panel.title),
    h("div", { style: { ...inner, margin: `0 ${PADDING}px` } }, body)
  );
}

function centred(inner) {
  return { ...inner, display: "grid", placeItems: "center", color: colors.text.secondary };
}

function Numbers({ panel, frames, width, height }) {
  const values = getFieldDisplayValues({
    data: frames,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: same,
    theme,
  });
  return values.map(({ display }, key) =>
    h(BigValue, {
      key,
      value: { ...display, title: "" },
      colorMode: panel.options.colorMode,
      graphMode: "none",
      textMode: "value",
      text: panel.options.text,
      justifyMode: "center",
      width,
      height: height / values.length,
      theme,
    })
  );
}

function Table({ panel, frames, width, height, timeRange }) {
  return h(TableNG, {
    data: frames[0],
    width,
    height,
    cellHeight: panel.options.cellHeight,
    initialSortBy: panel.options.sortBy,
    fieldConfig: panel.fieldConfig,
    timeRange,
    structureRev: 1,
    showTypeIcons: false,
    getActions: () => [],
    replaceVariables: same,
  });
}

function Lines({ panel, frames, width, height, timeRange }) {
  for (const { fields } of frames) {
    for (const field of fields) {
      field.config = { ...field.config, custom: { ...LINES, ...field.config.custom } };
    }
  }
  const { legend } = panel.options;
  return h(TimeSeries, {
    frames,
    width,
    height,
    timeRange,
    timeZone: "utc",
    structureRev: 1,
    legend: { ...legend, calcs: legend.calcs ?? [] },
    options: {},
    replaceVariables: same,
  });
}

function States({ frames, width, height, timeRange }) {
  const left = 190;
  const span = timeRange.to.valueOf() - timeRange.from.valueOf();
  const toX = (at) => left + ((at - timeRange.from.valueOf()) / span) * (width - left);
  const line = (height - 20) / frames.length;
  const marks = frames.flatMap(({ fields: [times, values] }, row) => {
    const step = times.values.length > 1 ? times.values[1] - times.values[0] : span;
    return times.values.map((at, index) => {
      const { color } = values.display(values.values[index]);
      const x = toX(at);
      const until = Math.min(toX(at + step), width);
      const top = row * line + 1;
      return h("rect", {
        key: `${row}/${index}`,
        x,
        y: top,
        width: Math.max(1, until - x + 0.5),
        height: line - 2,
        fill: color,
      });
    });
  });
  const names = frames.map(({ fields: [, values] }, row) => {
    const place = { key: row, x: 0, y: (row + 0.5) * line + 4 };
    return h("text", { ...place, fontSize: 12, fill: colors.text.primary }, values.state.displayName);
  });
  const words = new Map();
  for (const { fields: [, values] } of frames) {
    for (const value of values.values) {
      const { text, color } = values.display(value);
      words.set(text, color);
    }
  }
  const legend = [...words].map(([text, color], index) =>
    h("tspan", { key: text, fill: color, dx: index ? 16 : 0 }, `■ ${text}`)
  );
  const below = { x: left, y: height - 4, fontSize: 12 };
  return h("svg", { width, height }, marks, names, h("text", below, legend));
}

function Heat({ frames, width, height, timeRange }) {
  const left = 60;
  const span = timeRange.to.valueOf() - timeRange.from.valueOf();
  const bounds = frames.map((frame) => [bound(frame.fields[1].labels.le), frame]);
  bounds.sort(([a], [b]) => a - b);
  const line = (height - 20) / bounds.length;
  const cells = bounds.flatMap(([, frame], row) => {
    const [times, values] = frame.fields;
    const lower = row ? bounds[row - 1][1].fields[1].values : [];
    const step = times.values.length > 1 ? times.values[1] - times.values[0] : span;
    return times.values.map((at, index) => {
      const count = values.values[index] - (lower[index] ?? 0);
      const x = left + ((at - timeRange.from.valueOf()) / span) * (width - left);
      const place = { x, y: (bounds.length - 1 - row) * line, height: line - 1 };
      const wide = Math.max(1, (step / span) * (width - left) - 1);
      const fill = `hsl(${260 - 200 * Math.min(1, count / 10)} 70% 45%)`;
      return count > 0.01 && h("rect", { key: `${row}/${index}`, ...place, width: wide, fill });
    });
  });
  const names = bounds.map(([upper], row) => {
    const y = (bounds.length - 1 - row) * line + line / 2 + 4;
    return h("text", { key: row, x: 0, y, fontSize: 11, fill: colors.text.secondary }, `${upper} s`);
  });
  return h("svg", { width, height }, cells, names);
}

function bound(le) {
  return le === "+Inf" ? Infinity : Number(le);
}

const KINDS = {
  stat: Numbers,
  table: Table,
  timeseries: Lines,
  "state-timeline": States,
  heatmap: Heat,
};

async function draw({ title, width, questions, from, to }) {
  const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: "now-1h", to: "now" } };
  const panels = [];
  for (const { panel, results } of questions) {
    const frames = panel.type === "row" ? [] : await shown(panel, results, theme);
    panels.push({ place: panel.gridPos, panel, frames });
  }
  const bottom = Math.max(...panels.map(({ place }) => place.y + place.h)) * (ROW + GAP);
  document.body.style.margin = "0";
  const head = { fontSize: 18, fontWeight: 500, padding: "10px 8px", height: 44 };
  const page = h(
    ThemeContext.Provider,
    { value: theme },
    h(GlobalStyles, { hackNoBackdropBlur: true, isExtensionSidebarOpen: false }),
    h(
      "div",
      { style: { width, height: bottom + 44, background: colors.background.canvas } },
      h("div", { style: head }, title),
      h(
        "div",
        { style: { position: "relative", fontFamily: theme.typography.fontFamily } },
        panels.map((one, key) => h(Panel, { key, width, timeRange, ...one }))
      )
    )
  );
  createRoot(document.getElementById("page")).render(page);
}

draw(window.DASHBOARD);
