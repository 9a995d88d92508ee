(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const config = {
    responsive: true,
    displayModeBar: false, // it would cover the last hour; drag to zoom, double-click to go back
    doubleClick: "reset",
  };
  const PRINT_WIDTH_PX = 1000;
  const TICK_PX = 64;
  const NARROW_PX = 600;
  let following = false;

  const ticks = (width, left) => Math.max(2, Math.floor((width - left) / TICK_PX));

  const fitted = (layout, width) => {
    const narrow = width < NARROW_PX;
    const margin = { ...layout.margin, l: narrow ? Math.round(layout.margin.l * 0.8) : layout.margin.l };
    const yaxis = { ...layout.yaxis, tickfont: { size: narrow ? 10 : 12 } };
    return { ...layout, margin, yaxis, xaxis: { ...layout.xaxis, nticks: ticks(width, margin.l) } };
  };

  const follow = (source, change) => {
    if (following) return;
    const range = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const update = change["xaxis.autorange"] ? { "xaxis.autorange": true } : { "xaxis.range": range };
    if (!change["xaxis.autorange"] && range[0] === undefined) return;
    following = true;
    Promise.all(plots.filter((plot) => plot !== source).map((plot) => Plotly.relayout(plot, update))).finally(() => {
      following = false;
    });
  };

  const toggle = (button) => {
    const visible = button.getAttribute("aria-pressed") !== "true";
    const name = button.dataset.name;
    document.querySelectorAll(".toggle").forEach((other) => {
      if (other.dataset.name === name) other.setAttribute("aria-pressed", String(visible));
    });
    plots.forEach((plot) => {
      const traces = plot.data.map((trace, index) => [trace, index]);
      const hit = traces.filter(([trace]) => trace.name === name).map(([, index]) => index);
      if (hit.length) Plotly.restyle(plot, { visible }, hit);
    });
  };

  Promise.all(
    plots.map((plot) => {
      const figure = figures[Number(plot.dataset.figure)];
      return Plotly.newPlot(plot, figure.data, fitted(figure.layout, plot.clientWidth), config).then(() => {
        plot.on("plotly_relayout", (change) => follow(plot, change));
      });
    }),
  ).then(() => document.documentElement.setAttribute("data-drawn", String(plots.length)));

  document.querySelectorAll(".toggle").forEach((button) => button.addEventListener("click", () => toggle(button)));

  const resized = (plot, width, more) =>
    Plotly.relayout(plot, { ...more, "xaxis.nticks": ticks(width, plot.layout.margin.l) });
  window.addEventListener("resize", () => plots.forEach((plot) => resized(plot, plot.clientWidth, {})));
  window.addEventListener("beforeprint", () => {
    plots.forEach((plot) => resized(plot, PRINT_WIDTH_PX, { autosize: false, width: PRINT_WIDTH_PX }));
  });
  window.addEventListener("afterprint", () => {
    plots.forEach((plot) => resized(plot, plot.clientWidth, { autosize: true, width: null }));
  });
})();
