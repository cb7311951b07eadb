"use strict";
// Sorts a table by the column whose header is pressed, and opens all data tables for print. Nothing is fetched.
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, column, head));
  }
}

function sort(table, column, head) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const isNumber = head.classList.contains("n");
  const rows = [...table.tBodies[0].rows].sort((one, two) => {
    const [first, second] = [value(one), value(two)];
    if (first === "" || second === "") return (first === "") - (second === "");  // what has no value comes last
    return sign * (isNumber ? Number(first) - Number(second) : first.localeCompare(second));
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  table.tBodies[0].append(...rows);
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
