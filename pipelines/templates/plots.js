(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  Promise.all(
    plots.map((plot) => {
      const figure = figures[Number(plot.dataset.figure)];
      return Plotly.newPlot(plot, figure.data, figure.layout, config);
    }),
  ).then(() => document.documentElement.setAttribute("data-drawn", String(plots.length)));
})();
