"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("runs");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const boxes = rows.map((row) => row.querySelector("input[type=checkbox]"));
  const words = rows.map((row) => row.textContent.toLowerCase());
  const find = (id) => document.getElementById(id);

  const element = (name, text = "", attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const missing = (value) => value === null || value === undefined || value === "";
  const shown = (value) => {
    if (missing(value)) return "–";
    return typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value);
  };

  // All values of a run by name; `mrr` is that of the trained model on q2d, others are `d2q.mrr` or `bm25.mrr`.
  const usual = (word) => word !== "trained" && word !== "q2d";
  const settingsOf = (run) => ({ ...data.common, ...run.settings });
  const values = data.runs.map((run) => {
    const own = Object.assign(Object.create(null), { run: run.id }, settingsOf(run), run.facts);
    for (const [name, triple] of Object.entries(run.metrics)) own[name.split(" ").filter(usual).join(".")] = triple[0];
    return own;
  });
  const groups = { Run: ["run", ...Object.keys(data.runs[0].facts)], Metrics: [], Settings: [] };
  groups.Settings = [...new Set(data.runs.flatMap((run) => Object.keys(run.settings))), ...Object.keys(data.common)];
  const grouped = new Set([...groups.Run, ...groups.Settings]);
  groups.Metrics = [...new Set(values.flatMap((own) => Object.keys(own).filter((name) => !grouped.has(name))))];
  const names = new Set(Object.values(groups).flat());
  const known = (name) => {
    const short = name.split(".").filter(usual).join(".");
    return [name, short, short.replace(/[-_]/g, "")].find((each) => names.has(each));
  };

  // Sorting: by a column's head, or by any name of the list, which then gets a column of its own.
  const heads = [...table.tHead.rows[0].cells].filter((head) => head.dataset.name);
  const box = find("sort");
  const turn = find("turn");
  let [sorted, down] = ["started", true];
  const extra = (name) => {
    for (const cell of table.querySelectorAll(".extra")) cell.remove();
    if (heads.some((head) => head.dataset.name === name) || name === "run") return;
    const at = heads.find((head) => head.dataset.name === "mrr").cellIndex;
    const right = values.some((own) => typeof own[name] === "number") ? " value" : "";
    const head = element("th", name, { scope: "col", class: `extra${right}` });
    table.tHead.rows[0].insertBefore(head, table.tHead.rows[0].cells[at]);
    rows.forEach((row, index) => {
      const cell = element("td", shown(values[index][name]), { class: `extra${right}`, "data-label": name });
      row.insertBefore(cell, row.cells[at]);
    });
  };
  const collator = new Intl.Collator(undefined, { numeric: true });
  const sort = () => {
    const sign = down ? -1 : 1;
    const order = rows.map((row, index) => [values[index][sorted], row]);
    order.sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      if (typeof a === "number" && typeof b === "number") return sign * (a - b);
      return sign * collator.compare(String(a), String(b));
    });
    body.append(...order.map(([, row]) => row));
    const direction = down ? "descending" : "ascending";
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    const head = heads.find((each) => each.dataset.name === sorted) ?? table.tHead.querySelector(".extra");
    head?.setAttribute("aria-sort", direction);
    box.value = sorted;
    turn.textContent = down ? "↓" : "↑";
    turn.setAttribute("aria-label", `Sorted ${direction}; reverse`);
  };
  const sortBy = (name) => {
    const falling = name === "started" || values.some((own) => typeof own[name] === "number");
    down = name === sorted ? !down : falling;
    sorted = name;
    extra(name);
    sort();
  };
  for (const [label, list] of Object.entries(groups)) {
    const group = element("optgroup", "", { label });
    group.append(...list.map((name) => element("option", name, { value: name })));
    box.append(group);
  }
  box.value = sorted;
  box.addEventListener("change", () => sortBy(box.value));
  turn.addEventListener("click", () => sortBy(sorted));
  for (const head of heads) {
    const button = element("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(head.dataset.name));
  }

  // Filtering: every term must hold; `name=value` and other conditions may name any value of a run.
  const comparisons = {
    "=": (order) => order === 0, "!=": (order) => order !== 0, "<": (order) => order < 0,
    "<=": (order) => order <= 0, ">": (order) => order > 0, ">=": (order) => order >= 0,
  };
  const term = (text) => {
    const negative = text.length > 1 && text.startsWith("-");
    const bare = (negative ? text.slice(1) : text).replaceAll('"', "");
    const parts = text.startsWith('"') ? null : /^([a-z][\w@.-]*)(<=|>=|!=|=|<|>|~)(.*)$/.exec(bare);
    if (!parts) return { holds: (index) => words[index].includes(bare) !== negative };
    const [, written, sign, wanted] = parts;
    const name = known(written);
    if (!name) return { unknown: written, holds: () => false };
    return { holds: (index) => {
      const value = values[index][name] ?? "";
      const text = String(value).toLowerCase();
      if (sign === "~") return text.includes(wanted) !== negative;
      const numeric = typeof value === "number" && wanted !== "" && !Number.isNaN(Number(wanted));
      const order = numeric ? value - Number(wanted) : text < wanted ? -1 : Number(text > wanted);
      if (!numeric && /[<>]/.test(sign) && (missing(value) || typeof value === "number")) return negative;
      return comparisons[sign](order) !== negative;
    } };
  };
  const query = find("filter");
  const filter = () => {
    const terms = (query.value.toLowerCase().match(/(?:[^\s"]|"[^"]*"?)+/g) ?? []).map(term);
    let visible = 0;
    rows.forEach((row, index) => {
      row.hidden = !terms.every((each) => each.holds(index));
      visible += row.hidden ? 0 : 1;
    });
    const unknown = terms.filter((each) => each.unknown).map((each) => each.unknown);
    const count = terms.length ? `${visible} of ${rows.length} runs` : "";
    find("shown").textContent = unknown.length ? `${count}; no run has a ${unknown.join(" or a ")}` : count;
  };
  query.addEventListener("input", filter);
  query.form.addEventListener("submit", (event) => event.preventDefault());
  for (const [label, list] of Object.entries(groups)) {
    const line = element("p", `${label}: `);
    for (const name of list) line.append(element("code", name), " ");
    find("names").append(line);
  }

  // Comparing: the settings that differ, then every metric, with the best value of each row marked.
  const panel = find("compare");
  const chosenTools = [find("clear"), find("jump")];
  const line = (label, cells, mark = () => false) => {
    const row = element("tr");
    row.append(element("th", label, { scope: "row" }));
    cells.forEach((cell, index) => row.append(element("td", shown(cell), mark(index) ? { class: "most" } : {})));
    return row;
  };
  const part = (label, width) => {
    const row = element("tr", "", { class: "part" });
    row.append(element("th", label, { colspan: width + 1, scope: "rowgroup" }));
    return row;
  };
  const differs = (list) => new Set(list.map((value) => JSON.stringify(value ?? null))).size > 1;
  const compare = () => {
    const chosen = data.runs.filter((run, index) => boxes[index].checked);
    rows.forEach((row, index) => row.classList.toggle("chosen", boxes[index].checked));
    panel.hidden = chosen.length === 0;
    for (const tool of chosenTools) tool.hidden = chosen.length === 0;
    find("jump").textContent = `${chosen.length} chosen: compare`;
    panel.replaceChildren(element("h2", chosen.length === 1 ? "One run chosen; tick another to compare" : "Comparison"));
    if (chosen.length < 2) return;
    const head = element("tr");
    head.append(element("td"), ...chosen.map((run) => element("th", run.id, { scope: "col" })));
    const settings = chosen.map(settingsOf);
    const all = [...new Set(settings.flatMap(Object.keys))];
    const changed = all.filter((name) => differs(settings.map((each) => each[name])));
    const lines = [part(changed.length ? "Settings that differ" : "No setting differs", chosen.length)];
    for (const name of changed) lines.push(line(name, settings.map((each) => each[name])));
    // Older runs have no fingerprint of the test alone; that of all rows also changes with what a run trained on.
    const tests = chosen.every((run) => run.tested);
    const prints = chosen.map((run) => (tests ? run.tested : run.fingerprint));
    if (differs(prints)) {
      const unlike = tests
        ? "Tested on different data: the metrics cannot be compared"
        : "Other train or test rows: the command compare says whether the metrics can be compared";
      lines.push(part(unlike, chosen.length));
      lines.push(line(tests ? "test fingerprint" : "data fingerprint", prints));
    }
    lines.push(part("Metrics, with 95 % intervals", chosen.length));
    for (const name of new Set(chosen.flatMap((run) => Object.keys(run.metrics)))) {
      const triples = chosen.map((run) => run.metrics[name] ?? [null, null, null]);
      const points = triples.map(([point]) => point).filter((point) => point !== null);
      const most = differs(points) ? Math.max(...points) : null;
      const texts = triples.map((triple) => {
        const [point, low, high] = triple.map((each) => each?.toFixed(3));
        return low && high ? `${point}  (${low}–${high})` : point;
      });
      lines.push(line(name, texts, (index) => most !== null && triples[index][0] === most));
    }
    for (const name of ["steps", "seconds"]) lines.push(line(name, chosen.map((run) => run.facts[name])));
    const made = element("table");
    made.append(element("thead"), element("tbody"));
    made.tHead.append(head);
    made.tBodies[0].append(...lines);
    panel.append(made);
  };
  body.addEventListener("change", compare);
  find("clear").addEventListener("click", () => {
    for (const each of boxes) each.checked = false;
    compare();
  });

  // Copying: to the clipboard if the browser allows it; otherwise the text is selected for Ctrl-C.
  table.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  find("tools").hidden = false;
  filter();
  compare();
})();
