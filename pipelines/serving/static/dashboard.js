// Keys, and what a refresh must not disturb: presses, scroll, open details, the stamp of what is shown. htmx asks.
(() => {
  "use strict";
  const find = (selector) => document.querySelector(selector);
  const links = () => [...document.querySelectorAll("#live a.open")];
  const kept = new Map();
  let last = ""; // the row that had the focus
  let polled = ""; // what the form said when the open page asked
  let pressed = 0; // until when a swap waits: a row that is replaced between press and release is not clicked
  let owed = false; // an answer came meanwhile and was not shown
  const pressMax = 2000; // ms; a release may never be told

  const asked = () => (find("#asked") ? new URLSearchParams(new FormData(find("#asked"))).toString() : "");

  const typing = (element) => element && element.matches("input, select, textarea");

  const move = (by) => {
    const all = links();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement);
    const known = here >= 0 ? here : all.findIndex((link) => link.id === last);
    const next = known < 0 ? 0 : here < 0 ? known : Math.min(Math.max(known + by, 0), all.length - 1);
    all[next].focus();
    all[next].closest("tr").scrollIntoView({ block: "nearest" });
  };

  const back = (link) => {
    const ours = document.referrer.startsWith(`${location.origin}/`) && history.length > 1;
    if (ours) history.back();
    else location.assign(link.href);
  };

  const sortBy = (name) => {
    const sort = find("#sort");
    const turned = find("#turned");
    turned.checked = sort.value === name && !turned.checked;
    sort.value = name;
    sort.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = document.activeElement;
    if (event.key === "Escape") {
      event.preventDefault(); // a browser would empty the filter
      if (typing(at)) at.blur();
      else if (find("[data-back]")) back(find("[data-back]"));
      else if (at && at !== document.body) at.blur();
      return;
    }
    const arrows = at && (at.matches("a.open") || at.id === "text") && !at.matches("select");
    const down = event.key === "ArrowDown" && arrows;
    const up = event.key === "ArrowUp" && arrows && at.id !== "text";
    if (down || up || (!typing(at) && (event.key === "j" || event.key === "k"))) {
      event.preventDefault();
      move(down || event.key === "j" ? 1 : -1);
    } else if (event.key === "/" && !typing(at) && find("#text")) {
      event.preventDefault();
      find("#text").focus();
      if (find("#text").select) find("#text").select();
    }
  };

  const lost = (is) => {
    const note = find("#lost");
    if (is && note.hidden) note.querySelector("b").textContent = new Date().toISOString().slice(11, 19) + "Z";
    note.hidden = !is;
  };

  const release = () => {
    pressed = 0;
    setTimeout(() => {
      if (owed && find("#asked")) find("#asked").dispatchEvent(new Event("change"));
      owed = false;
    });
  };

  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", (event) => {
    if (event.isPrimary && event.button === 0 && event.target.closest("#live")) pressed = performance.now() + pressMax;
  });
  document.addEventListener("pointerup", release);
  document.addEventListener("pointercancel", release);
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("a.open")) last = event.target.id;
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // the page stays as it is
    owed = false; // it is left, or asks anew
    if (!link.matches("[data-sort]")) return;
    event.preventDefault();
    sortBy(link.dataset.sort);
  });

  document.addEventListener("htmx:configRequest", (event) => {
    const live = find("#live");
    if (event.detail.elt !== live) return;
    polled = asked();
    if (live.dataset.stamp) event.detail.headers["X-Shown"] = live.dataset.stamp;
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const late = event.detail.requestConfig.elt === find("#live") && polled !== asked();
    const inHand = performance.now() < pressed;
    owed ||= inHand;
    if (late || inHand) event.detail.shouldSwap = false; // the reader asked for something else, or presses
    if (!event.detail.shouldSwap) return;
    document.querySelectorAll("[data-keep]").forEach((part) => kept.set(part.id, [part.scrollLeft, part.scrollTop]));
    find("#live").dataset.stamp = event.detail.xhr.getResponseHeader("x-stamp") || "";
  });
  document.addEventListener("htmx:afterSwap", () => {
    kept.forEach(([left, top], id) => {
      const part = document.getElementById(id);
      if (part) [part.scrollLeft, part.scrollTop] = [left, top];
    });
    kept.clear();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.elt.id === "live") lost(!event.detail.successful && event.detail.xhr.status !== 503);
  });
})();
