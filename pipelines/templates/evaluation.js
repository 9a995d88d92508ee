(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  const PRINT_WIDTH_PX = 1000;
  const PRINT_HALF_PX = 490;

  const toggle = (button) => {
    const visible = button.getAttribute("aria-pressed") !== "true";
    const name = button.dataset.name;
    document.querySelectorAll(".toggle").forEach((other) => {
      if (other.dataset.name === name) other.setAttribute("aria-pressed", String(visible));
    });
    plots.forEach((plot) => {
      const hit = plot.data.flatMap((trace, index) => (trace.name === name ? [index] : []));
      if (hit.length) Plotly.restyle(plot, { visible }, hit);
    });
  };

  Promise.all(
    plots.map((plot) => {
      const figure = figures[Number(plot.dataset.figure)];
      return Plotly.newPlot(plot, figure.data, figure.layout, config);
    }),
  ).then(() => document.documentElement.setAttribute("data-drawn", String(plots.length)));

  document.querySelectorAll(".toggle").forEach((button) => button.addEventListener("click", () => toggle(button)));

  window.addEventListener("beforeprint", () => {
    plots.forEach((plot) => {
      const width = plot.closest(".pair") ? PRINT_HALF_PX : PRINT_WIDTH_PX;
      Plotly.relayout(plot, { autosize: false, width });
    });
  });
  window.addEventListener("afterprint", () => {
    plots.forEach((plot) => Plotly.relayout(plot, { autosize: true, width: null }));
  });
})();
