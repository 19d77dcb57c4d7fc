"use strict";
// The interactive map of a report: builds a Bokeh plot from the JSON beside each [data-hr-map]. No eval, no network.
(() => {
  const STYLE = `
    .hr-map form { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: end; margin: .5rem 0; }
    .hr-map label { display: flex; flex-direction: column; gap: .2rem; font-size: .85rem; flex: 1 1 20rem; }
    .hr-map input { width: 100%; box-sizing: border-box; }
    .hr-map ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; margin: .4rem 0; font-size: .85rem; }
    .hr-map li::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 2px; background: var(--dot); }
    .hr-map p { font-size: .8rem; margin: .3rem 0; }
    .hr-map .plot { border: 1px solid #ccc; border-radius: 8px; overflow: hidden; background: #fff; }
    @media print { .hr-map form { display: none; } }`;
  // Bokeh inserts the values as text, never as HTML.
  const TIP = `<div style="max-width: 22rem; white-space: normal; font-size: 13px; line-height: 1.35">
    <div style="font-weight: 600">@title</div><div style="color: #555">@kind</div><div>@text</div></div>`;
  const WIDE = 1.5;
  const SHAPES = { query: "circle", document: "triangle" };
  const folded = (text) => text.normalize("NFKC").toLowerCase().replaceAll("ё", "е");

  function make(tag, parent, attributes = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  function plotOf(source, hits, data) {
    // One unit is equally long on both axes, and all checkpoints fit without moving the frame.
    const width = Math.max(...data.x.map((row) => Math.max(...row))), height = Math.max(...data.y.map((row) => Math.max(...row)));
    const up = 1.08 * Math.max(height, width / WIDE, 1);
    const range = (end, span) => new Bokeh.Range1d({ start: (end - span) / 2, end: (end + span) / 2 });
    const plot = Bokeh.Plotting.figure({
      x_range: range(width, WIDE * up), y_range: range(height, up), aspect_ratio: WIDE, sizing_mode: "scale_width",
      tools: "pan,box_zoom,reset", toolbar_location: "right", outline_line_color: null, min_border: 4,
    });
    plot.toolbar.logo = null;
    for (const axis of [...plot.xaxes, ...plot.yaxes]) axis.visible = false;
    for (const grid of [...plot.xgrids, ...plot.ygrids]) grid.visible = false;
    const field = (name) => ({ field: name });
    const points = plot.scatter({
      x: field("x"), y: field("y"), marker: field("shape"), size: data.texts.length > 1500 ? 5 : 7, source,
      fill_color: field("colour"), fill_alpha: field("alpha"), line_alpha: 0,
    });
    plot.scatter({ x: field("x"), y: field("y"), size: 12, source: hits, fill_alpha: 0, line_color: "#000000", line_width: 1.5 });
    plot.add_tools(new Bokeh.HoverTool({ tooltips: TIP, renderers: [points], limit: 3 }));
    plot.add_tools(new Bokeh.WheelZoomTool({ modifiers: { ctrl: true } }));
    return plot;
  }

  function draw(place, data) {
    place.classList.add("hr-map");
    const form = make("form", place);
    form.addEventListener("submit", (event) => event.preventDefault());
    const slide = make("label", form);
    const where = make("output", slide);
    const last = data.steps.length - 1;
    const slider = make("input", slide, { type: "range", min: 0, max: last, step: 1, value: 0, autocomplete: "off" });
    const find = make("label", form);
    const found = make("output", find);
    const search = make("input", find, { type: "search", placeholder: "words from a title or a text", autocomplete: "off" });
    const legend = make("ul", place);
    const named = data.class.includes(-1) ? [...data.classes, ["others", data.faded]] : data.classes;
    for (const [name, colour] of named) make("li", legend, {}, name).style.setProperty("--dot", colour);
    const box = make("div", place, { class: "plot" });
    make("p", place, {}, "Circles are queries, triangles are documents. Drag to move, Ctrl and wheel to zoom. " +
      "Paths look shorter than they are: the layout keeps each text near its earlier place.");

    // Grey points are drawn below coloured ones.
    const order = data.texts.map((_, row) => row).sort((a, b) => (data.class[a] >= 0) - (data.class[b] >= 0) || a - b);
    const column = (of) => order.map(of);
    const titles = column((row) => data.groups[data.group[row]]), texts = column((row) => data.texts[row]);
    const words = titles.map((title, at) => folded(`${title} ${texts[at]}`));
    const places = data.steps.map((_, step) => ({ x: column((row) => data.x[step][row]), y: column((row) => data.y[step][row]) }));
    const source = new Bokeh.ColumnDataSource({ data: {
      ...places[0], title: titles, text: texts.map((text, at) => (text === titles[at] ? "" : text)),
      kind: column((row) => data.sides[data.side[row]]), alpha: order.map(() => 0.85),
      shape: column((row) => SHAPES[data.sides[data.side[row]]] || "square"),
      colour: column((row) => data.classes[data.class[row]]?.[1] ?? data.faded),
    } });
    const hits = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
    let matches = [], moving = 0;

    const ring = () => {
      hits.data = { x: matches.map((at) => source.data.x[at]), y: matches.map((at) => source.data.y[at]) };
    };
    const go = (step) => {
      const said = `Checkpoint: step ${data.steps[step].toLocaleString("en")} of ${data.steps[last].toLocaleString("en")}`;
      where.textContent = `${said} (${Math.round(100 * data.kept[step])}% of neighbours kept)`;
      slider.setAttribute("aria-valuetext", said);
      const from = { x: source.data.x, y: source.data.y }, to = places[step], began = performance.now();
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      cancelAnimationFrame(moving);
      const frame = (now) => {
        const share = still ? 1 : Math.min(1, Math.max(0, (now - began) / 400));
        const between = (name) => to[name].map((value, at) => from[name][at] + share * (value - from[name][at]));
        source.data = { ...source.data, x: between("x"), y: between("y") };
        ring();
        if (share < 1) moving = requestAnimationFrame(frame);
      };
      moving = requestAnimationFrame(frame);
    };
    const seek = () => {
      const wanted = folded(search.value).split(/\s+/).filter(Boolean);
      matches = wanted.length ? words.flatMap((text, at) => (wanted.every((word) => text.includes(word)) ? [at] : [])) : [];
      const chosen = new Set(matches);
      source.data = { ...source.data, alpha: words.map((_, at) => (wanted.length && !chosen.has(at) ? 0.15 : 0.85)) };
      found.textContent = wanted.length ? `${matches.length} of ${words.length} texts match` : "Search";
      ring();
    };
    slider.addEventListener("input", () => go(Number(slider.value)));
    search.addEventListener("input", seek);
    seek();
    go(0);
    return Bokeh.Plotting.show(plotOf(source, hits, data), box);
  }

  for (const place of document.querySelectorAll("div[data-hr-map]")) {
    const block = place.parentElement.querySelector("script[data-hr-map-data]");
    const picture = place.parentElement.querySelector("[data-hr-map-picture]");
    if (!block) continue;
    const failed = (error) => {
      console.error(error);
      place.replaceChildren();  // the picture stays
    };
    try {
      draw(place, JSON.parse(block.textContent)).then(() => { if (picture) picture.hidden = true; }, failed);
    } catch (error) {
      failed(error);
    }
  }
  if (document.querySelector(".hr-map")) make("style", document.head, {}, STYLE);
})();
