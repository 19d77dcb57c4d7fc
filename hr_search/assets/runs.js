"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("runs");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const boxes = rows.map((row) => row.querySelector("input[type=checkbox]"));
  const words = rows.map((row) => row.textContent.toLowerCase());

  const element = (name, text = "", attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const settingsOf = (run) => ({ ...data.common, ...run.settings });
  const shown = (value) => {
    if (value === null || value === undefined || value === "") return "–";
    if (typeof value === "number") return String(Number(value.toPrecision(6)));
    return Array.isArray(value) ? value.map(shown).join(", ") : String(value);
  };

  // Sorting: a button in each sortable head, missing values last in both directions.
  const sortBy = (head, column) => {
    const numeric = head.dataset.kind === "number";
    const first = numeric || head.dataset.kind === "date" ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => {
      const cell = row.cells[column];
      return (cell.dataset.value === undefined ? cell.textContent : cell.dataset.value).trim();
    };
    const keyed = [...rows].map((row) => [key(row), row]);
    keyed.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    });
    body.append(...keyed.map(([, row]) => row));
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.dataset.kind) return;
    const button = element("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(head, column));
  });

  // Filtering: every term must hold; `name=value` and the like look into settings and numbers.
  const holds = (term, index) => {
    const parts = /^([a-z][a-z0-9@_-]*)(<=|>=|!=|=|<|>)(.+)$/.exec(term);
    if (!parts) return words[index].includes(term);
    const run = data.runs[index];
    const name = parts[1].replace(/[-_]/g, "");
    const value = { ...settingsOf(run), ...run.numbers }[name];
    if (value === undefined || value === null) return false;
    const [left, right] = [Number(value), Number(parts[3])];
    const numeric = typeof value === "number" && !Number.isNaN(right);
    const equal = numeric ? left === right : String(value).toLowerCase() === parts[3];
    if (parts[2] === "=") return equal;
    if (parts[2] === "!=") return !equal;
    if (!numeric) return false;
    return { "<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right }[parts[2]];
  };
  const box = document.getElementById("filter");
  const counter = document.getElementById("shown");
  const filter = () => {
    const terms = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    rows.forEach((row, index) => {
      row.hidden = !terms.every((term) => holds(term, index));
      visible += row.hidden ? 0 : 1;
    });
    counter.textContent = terms.length ? `${visible} of ${rows.length} runs` : "";
  };
  box.addEventListener("input", filter);
  box.form.addEventListener("submit", (event) => event.preventDefault());

  // Comparing: what differs in the settings, then every metric, best value of a row marked.
  const panel = document.getElementById("compare");
  const clear = document.getElementById("clear");
  const line = (label, values, mark = () => false) => {
    const row = element("tr");
    row.append(element("th", label, { scope: "row" }));
    for (const value of values) row.append(element("td", shown(value), mark(value) ? { class: "most" } : {}));
    return row;
  };
  const part = (label, width) => {
    const row = element("tr", "", { class: "part" });
    row.append(element("th", label, { colspan: width + 1, scope: "rowgroup" }));
    return row;
  };
  const differs = (values) => new Set(values.map((value) => JSON.stringify(value ?? null))).size > 1;
  const compare = () => {
    const chosen = data.runs.filter((run, index) => boxes[index].checked);
    rows.forEach((row, index) => row.classList.toggle("chosen", boxes[index].checked));
    panel.hidden = clear.hidden = chosen.length === 0;
    panel.replaceChildren(element("h2", chosen.length === 1 ? "One run chosen; tick another to compare" : "Comparison"));
    if (chosen.length < 2) return;
    const head = element("tr");
    head.append(element("td"), ...chosen.map((run) => element("th", run.id, { scope: "col" })));
    const settings = chosen.map(settingsOf);
    const names = Object.keys(settings[0]).filter((name) => differs(settings.map((each) => each[name])));
    const lines = [part(names.length ? "Settings that differ" : "No setting differs", chosen.length)];
    if (differs(chosen.map((run) => run.fingerprint))) lines.push(line("data fingerprint", chosen.map((run) => run.fingerprint)));
    for (const name of names) lines.push(line(name, settings.map((each) => each[name])));
    lines.push(part("Metrics", chosen.length));
    const metrics = [...new Set(chosen.flatMap((run) => Object.keys(run.metrics)))];
    for (const name of metrics) {
      const values = chosen.map((run) => run.metrics[name]);
      const points = values.filter((value) => value && value[0] !== null).map((value) => value[0]);
      const most = differs(points) ? Math.max(...points) : null;
      const texts = values.map((value) => (value && value[0] !== null ? value : null));
      const row = line(name, texts.map((value) => {
        if (!value) return null;
        const [point, low, high] = value.map((each) => (each === null ? null : each.toFixed(3)));
        return low && high ? `${point}  (${low}–${high})` : point;
      }));
      texts.forEach((value, index) => value && value[0] === most && row.cells[index + 1].classList.add("most"));
      lines.push(row);
    }
    for (const name of ["steps", "seconds"]) lines.push(line(name, chosen.map((run) => run.numbers[name])));
    const made = element("table");
    made.append(element("thead"), element("tbody"));
    made.tHead.append(head);
    made.tBodies[0].append(...lines);
    panel.append(made);
  };
  for (const each of boxes) each.addEventListener("change", compare);
  clear.addEventListener("click", () => {
    for (const each of boxes) each.checked = false;
    compare();
  });

  // Copying: the clipboard where the browser allows it, else the text is selected for Ctrl-C.
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
  filter();
  compare();
})();
