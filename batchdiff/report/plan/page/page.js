"use strict";
// Sort and filter the table together with the list of disks, and copy commands. The page is complete without this script.
const table = document.getElementById("table");
const body = table.tBodies[0];
const disks = document.getElementById("disks");
const rows = Array.from(body.rows);
const diskOf = new Map(Array.from(disks.children, (disk) => [disk.dataset.n, disk]));
const inOrder = new Intl.Collator("en", { numeric: true });

function valueOf(row, key) {
  return key === "name" || key === "verdict" ? row.dataset[key] : Number(row.dataset[key]);
}

function sortBy(header, key) {
  const isText = key === "name" || key === "verdict";
  const before = header.getAttribute("aria-sort");
  const ascending = before ? before === "descending" : isText;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  rows.sort((one, two) => {
    const a = valueOf(one, key);
    const b = valueOf(two, key);
    const order = isText ? inOrder.compare(a, b) : a - b;
    return (ascending ? order : -order) || one.dataset.n - two.dataset.n;
  });
  body.append(...rows);
  disks.append(...rows.map((row) => diskOf.get(row.dataset.n)));
}

for (const header of table.tHead.rows[0].cells) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sortBy(header, header.dataset.key));
  header.replaceChildren(button);
}

const form = document.getElementById("filter");
const find = document.getElementById("find");
const count = document.getElementById("count");

function applyFilter() {
  const part = find.value.toLowerCase();
  const verdicts = new Set(Array.from(form.querySelectorAll("[name=verdict]:checked"), (box) => box.value));
  let shown = 0;
  for (const row of rows) {
    const fits = row.dataset.name.toLowerCase().includes(part) && verdicts.has(row.dataset.verdict);
    row.hidden = !fits;
    diskOf.get(row.dataset.n).hidden = !fits;
    shown += fits;
  }
  count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
}

form.hidden = rows.length < 2;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", applyFilter);

function openNamed() {
  const disk = /^#g\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
  if (disk) disk.open = true;
}
window.addEventListener("hashchange", openNamed);
openNamed();

for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}
