"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const shown = (element) => !element.closest("[hidden], .off");

// Points: hovered or walked along with the arrow keys; what each says stands beside it and in a live region.
for (const figure of all("figure")) {
  const stage = figure.querySelector(".stage");
  const readout = figure.querySelector(".readout");
  const tip = stage.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
  let current = null;

  const marks = () => all(".mark", stage).filter(shown);
  const centre = (mark) => {
    const box = mark.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };
  const light = (of) => all("[data-of]", figure).forEach((e) => e.classList.toggle("dim", of !== null && e.dataset.of !== of));
  const said = (mark) => [mark.closest(".series").dataset.name, mark.dataset.say].filter(Boolean).join(", ");
  const select = (mark, aloud) => {
    current?.classList.remove("at");
    current = mark;
    tip.hidden = !mark;
    if (aloud || !mark) readout.textContent = mark ? said(mark) : "";
    if (figure.classList.contains("wide")) light(mark && mark.closest(".series").dataset.of);
    if (!mark) return;
    mark.classList.add("at");
    tip.textContent = said(mark);
    const place = centre(mark), box = stage.getBoundingClientRect();
    const left = Math.min(Math.max(place.x - box.x - tip.offsetWidth / 2, 0), box.width - tip.offsetWidth);
    const above = place.y - box.y - tip.offsetHeight - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < -24 ? place.y - box.y + 14 : above}px`;
  };

  stage.addEventListener("pointermove", (event) => {
    let nearest = null, least = 24;
    for (const mark of marks()) {
      const place = centre(mark), distance = Math.hypot(place.x - event.clientX, place.y - event.clientY);
      if (distance < least) [nearest, least] = [mark, distance];
    }
    if (nearest !== current) select(nearest, false);
  });
  stage.addEventListener("pointerleave", () => select(null));
  stage.addEventListener("blur", () => select(null));
  stage.addEventListener("keydown", (event) => {
    const group = (mark) => mark.closest(".series");
    const points = marks(), groups = [...new Set(points.map(group))];
    const inGroup = (g) => points.filter((mark) => group(mark) === g);
    if (event.key === "Escape") return select(null);
    if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return;
    if (!points.length) return;
    event.preventDefault();
    if (!current || !points.includes(current)) return select(points[0], true);
    const mine = inGroup(group(current)), i = mine.indexOf(current), g = groups.indexOf(group(current));
    if (event.key === "Home") return select(mine[0], true);
    if (event.key === "End") return select(mine.at(-1), true);
    const step = event.key === "ArrowRight" || event.key === "ArrowDown" ? 1 : -1;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") return select(mine[i + step] ?? current, true);
    const other = groups[g + step];
    if (!other) return;
    const along = (mark) => parseFloat(mark.getAttribute("cx") ?? mark.getAttribute("x") ?? mark.parentNode.getAttribute("x"));
    const distance = (mark) => Math.abs(along(mark) - along(current));
    select(inGroup(other).reduce((a, b) => (distance(b) < distance(a) ? b : a)), true);
  });

  for (const button of all("[data-variant]", figure.querySelector(".controls"))) {
    button.addEventListener("click", () => {
      select(null);
      for (const each of all("button[data-variant]", figure)) each.setAttribute("aria-pressed", String(each === button));
      for (const each of all(".variant", figure)) each.hidden = each.dataset.variant !== button.dataset.variant;
    });
  }
  for (const button of all("[data-toggle]", figure)) {
    const of = button.dataset.toggle;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const each of all(`[data-of="${of}"]`, figure)) each.classList.toggle("off", !on);
    });
    button.addEventListener("pointerenter", () => light(of));
    button.addEventListener("pointerleave", () => light(null));
  }
}

// The table of trials: sorted by its heads, filtered by words that must all occur.
for (const table of all("#trials")) {
  const body = table.tBodies[0], filter = document.getElementById("filter");
  const value = (row, column) => row.cells[column].textContent;
  all("thead button", table).forEach((button, column) => {
    const head = button.parentNode;
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of all("th", table)) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const compare = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)], [p, q] = [parseFloat(x), parseFloat(y)];
        if (x === "–" || y === "–") return (x === "–") - (y === "–"); // nothing comes last, whichever the direction
        return direction * (isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    document.getElementById("count").textContent = `${count} of ${body.rows.length} trials`;
  });
  document.querySelector(".filters").hidden = false;
}

// Copying a command, where the browser lets a page do so.
for (const button of navigator.clipboard ? all(".copy") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.parentNode.querySelector("pre").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl+C";
      getSelection().selectAllChildren(button.parentNode.querySelector("pre"));
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
