// Draws the charts, and sorts a table by the column whose head is pressed.
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  vegaEmbed(place, spec, { actions: false, renderer: "svg" })
    .then(() => { place.dataset.drawn = "yes"; })
    .catch((error) => { place.dataset.drawn = "no"; console.error(error); });
}
for (const head of document.querySelectorAll("th")) {
  head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const at = head.cellIndex, body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
    const number = head.classList.contains("number");
    const order = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (!number) return a.localeCompare(b);
      return (a === "" ? -Infinity : +a) - (b === "" ? -Infinity : +b);
    };
    body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
  });
}
