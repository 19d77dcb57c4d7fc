"use strict";
(() => {
  const button = document.getElementById("fold");
  const cells = document.querySelectorAll("details.code");
  const contents = document.querySelector(".toc details");
  if (contents && window.matchMedia("(min-width: 72rem)").matches) contents.open = true;

  // A link into a folded section opens it.
  const reveal = () => {
    const section = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details.section");
    if (section) section.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  // Columns of numbers are right-aligned, texts left-aligned; columns of long texts get some width.
  const numeric = /^(?:[-+−]?[\d.,\s]+(?:e[-+]?\d+)?\s?%?|[-−]?inf|NaN|None|<NA>|–|)$/i;
  for (const table of document.querySelectorAll("main table")) {
    if (table.querySelector("[colspan]:not([colspan='1']), [rowspan]:not([rowspan='1'])")) continue;
    const rows = [...table.rows];
    const body = rows.filter((row) => row.querySelector("td"));
    const width = Math.max(0, ...rows.map((row) => row.cells.length));
    for (let column = 0; column < width; column += 1) {
      const cells = body.map((row) => row.cells[column]).filter((cell) => cell && cell.tagName === "TD");
      if (cells.some((cell) => cell.textContent.length > 40)) cells[0].classList.add("long");
      if (cells.length === 0 || !cells.every((cell) => numeric.test(cell.textContent.trim()))) continue;
      for (const row of rows) row.cells[column]?.classList.add("number");
    }
  }

  if (cells.length === 0) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    for (const cell of cells) cell.open = shown;
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? "Hide code" : "Show code";
  });
})();
