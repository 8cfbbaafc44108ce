"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  function make(tag, text, more) {
    const found = document.createElement(tag);
    if (text !== undefined) found.textContent = text;
    return Object.assign(found, more || {});
  }

  // ---- tables that sort --------------------------------------------------------------------------------

  function sort(header, direction) {
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const sign = direction === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows).map((row, place) => {
      const cell = row.cells[column];
      const value = cell.dataset.v;
      return { row, place, text: cell.textContent.trim(), number: value === undefined ? NaN : Number(value) };
    });
    const numbers = header.dataset.kind === "number";
    rows.sort((a, b) => {
      if (numbers) {  // what has no number stands last, whichever way
        const lack = Number(isNaN(a.number)) - Number(isNaN(b.number));
        return lack || (isNaN(a.number) ? 0 : sign * (a.number - b.number)) || a.place - b.place;
      }
      return sign * a.text.localeCompare(b.text, undefined, { numeric: true }) || a.place - b.place;
    });
    for (const { row } of rows) body.append(row);
    for (const other of header.parentElement.cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === header ? direction : "none");
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("th[aria-sort] button");
    if (!button) return;
    const header = button.closest("th");
    const now = header.getAttribute("aria-sort");
    const first = header.dataset.first || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    sort(header, now === first ? other : first);
  });

  // ---- pictures behind a number ------------------------------------------------------------------------

  const dialog = document.getElementById("dialog");

  function show(title, lines, pictures) {
    const content = dialog.querySelector(".content");
    content.replaceChildren();
    dialog.querySelector("h2").textContent = title;
    for (const line of lines) content.append(make("p", line));
    for (const [name, address] of pictures) {
      const uri = address.startsWith("#") ? document.querySelector(address).src : address;
      const figure = make("figure");
      figure.append(make("img", undefined, { src: uri, alt: "Picture " + name }), make("figcaption", name));
      content.append(figure);
    }
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-show]");
    if (button) {
      const group = data.groups[Number(button.dataset.group)];
      const chosen = button.dataset.show ? button.dataset.show.split(",").map((i) => group.pictures[Number(i)]) : [];
      const lines = [button.dataset.note || "", chosen.length ? "Pictures of the run " + group.run + "." :
        "The run " + group.run + " has no picture of it."];
      show(button.dataset.title, lines.filter(Boolean), chosen);
    }
    const picture = event.target.closest(".gallery button");
    if (picture) {
      const image = picture.querySelector("img");
      show(picture.dataset.name, [], [[picture.dataset.name, image.src]]);
    }
    if (event.target === dialog) dialog.close();
  });
  if (dialog) dialog.querySelector(".close").addEventListener("click", () => dialog.close());

  // ---- maps of codes -----------------------------------------------------------------------------------

  const W = 640, H = 480, LEFT = 56, RIGHT = 12, TOP = 12, BOTTOM = 46, COLOURS = 10;

  function ticks(low, high) {
    const raw = (high - low) / 5 || 1;
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) found.push(v);
    return found;
  }

  function short(value) {
    return value === null ? "missing" : String(Number(Number(value).toPrecision(4)));
  }

  function escaped(text) {
    return String(text).replace(/[&<>"]/g, (c) => "&#" + c.charCodeAt(0) + ";");
  }

  function scale(values, from, to) {
    const low = Math.min(...values), high = Math.max(...values);
    const room = 0.04 * (high - low) || 1;
    const at = (v) => from + ((v - low + room) / (high - low + 2 * room)) * (to - from);
    return { at, low: low - room, high: high + room };
  }

  function lines(series, y) {  // the channels of a window; missing values leave no point
    return series[0].map((_, channel) => {
      const points = series.map((step, t) => [t, step[channel]]).filter(([, v]) => v !== null).map(([t, v]) =>
        (4 + (192 * t) / Math.max(series.length - 1, 1)).toFixed(1) + "," + y.at(v).toFixed(1));
      return '<polyline fill="none" stroke="var(--c' + (channel % COLOURS) + ')" stroke-width="1.5" ' +
        'points="' + points.join(" ") + '"></polyline>';
    }).join("");
  }

  class LatentMap {
    constructor(place, points) {
      this.points = points;
      this.off = new Set();
      this.images = {};
      this.current = -1;
      place.replaceChildren();
      place.className = "map";
      const left = make("div");
      this.panel = make("div", undefined, { className: "panel" });
      this.panel.setAttribute("aria-live", "polite");
      left.innerHTML = this.drawing();
      this.svg = left.querySelector("svg");
      left.append(this.legend());
      place.append(left, this.panel);
      for (const part of ["original", "decoded"]) {
        if (!points.sheet) continue;
        this.images[part] = make("img");
        this.images[part].addEventListener("load", () => this.select(this.current));
        this.images[part].src = points.sheet[part];
      }
      this.svg.addEventListener("pointermove", (event) => this.nearest(event));
      this.svg.addEventListener("pointerdown", (event) => this.nearest(event));
      this.svg.addEventListener("focus", () => this.select(this.current < 0 ? this.first() : this.current));
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.select(-1);
    }

    drawing() {
      const { x, y, label, axes } = this.points;
      const across = scale(x, LEFT, W - RIGHT), up = scale(y, H - BOTTOM, TOP);
      this.at = x.map((v, i) => [across.at(v), up.at(y[i])]);
      const parts = ['<svg viewBox="0 0 ' + W + " " + H + '" tabindex="0" role="application" aria-label="Map of ' +
        x.length + ' codes. Arrow keys go from point to point; each shows its image or values beside the map.">'];
      for (const v of ticks(across.low, across.high)) {
        const p = across.at(v).toFixed(1);
        parts.push('<line class="grid" x1="' + p + '" x2="' + p + '" y1="' + TOP + '" y2="' + (H - BOTTOM) + '"></line>' +
          '<text x="' + p + '" y="' + (H - BOTTOM + 17) + '" text-anchor="middle">' + short(v) + "</text>");
      }
      for (const v of ticks(up.low, up.high)) {
        const p = up.at(v).toFixed(1);
        parts.push('<line class="grid" y1="' + p + '" y2="' + p + '" x1="' + LEFT + '" x2="' + (W - RIGHT) + '"></line>' +
          '<text x="' + (LEFT - 6) + '" y="' + p + '" dy="4" text-anchor="end">' + short(v) + "</text>");
      }
      parts.push('<rect class="frame" x="' + LEFT + '" y="' + TOP + '" width="' + (W - RIGHT - LEFT) + '" height="' +
        (H - BOTTOM - TOP) + '"></rect>');
      parts.push('<text x="' + (LEFT + W - RIGHT) / 2 + '" y="' + (H - 8) + '" text-anchor="middle">' +
        escaped(axes[0]) + "</text>");
      parts.push('<text transform="translate(14 ' + (H - BOTTOM + TOP) / 2 + ') rotate(-90)" text-anchor="middle">' +
        escaped(axes[1]) + "</text>");
      this.at.forEach(([a, b], i) => parts.push('<circle class="p" cx="' + a.toFixed(1) + '" cy="' + b.toFixed(1) +
        '" r="5" fill="var(--c' + this.colour(label[i]) + ')"></circle>'));
      parts.push('<circle class="ring" r="9" cx="-50" cy="-50"></circle></svg>');
      return parts.join("");
    }

    colour(label) {
      return label < 0 ? 0 : label % COLOURS;
    }

    name(label) {
      return this.points.labels[label] || "class " + label;
    }

    legend() {
      const box = make("div", undefined, { className: "legend" });
      const there = [...new Set(this.points.label)].filter((l) => l >= 0).sort((a, b) => a - b);
      if (there.length > COLOURS) {
        box.append(make("span", there.length + " classes; colours come again after " + COLOURS + ".",
          { className: "quiet" }));
      }
      for (const label of there) {
        const button = make("button", undefined, { type: "button" });
        const dot = make("i");
        dot.style.background = "var(--c" + this.colour(label) + ")";
        button.append(dot, this.name(label));
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          const hidden = !this.off.delete(label);
          if (hidden) this.off.add(label);
          button.setAttribute("aria-pressed", String(!hidden));
          this.svg.querySelectorAll("circle.p").forEach((c, i) => c.classList.toggle("off", !this.shown(i)));
        });
        box.append(button);
      }
      return box;
    }

    shown(i) {
      return !this.off.has(this.points.label[i]);
    }

    first() {
      return this.at.findIndex((_, i) => this.shown(i));
    }

    nearest(event) {
      const box = this.svg.getBoundingClientRect();
      const a = ((event.clientX - box.left) / box.width) * W, b = ((event.clientY - box.top) / box.height) * H;
      let best = -1, least = 40 * 40;
      this.at.forEach(([x, y], i) => {
        const square = (x - a) * (x - a) + (y - b) * (y - b);
        if (square < least && this.shown(i)) { least = square; best = i; }
      });
      if (best >= 0 && best !== this.current) this.select(best);
    }

    key(event) {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Home") { event.preventDefault(); this.select(this.first()); }
      if (!way || this.current < 0) return;
      event.preventDefault();
      const [a, b] = this.at[this.current];
      let best = -1, least = Infinity;
      this.at.forEach(([x, y], i) => {
        const along = (x - a) * way[0] + (y - b) * way[1], beside = Math.abs((x - a) * way[1] + (y - b) * way[0]);
        const cost = along + 2 * beside;
        if (i !== this.current && along > 0 && beside <= along * 2 && cost < least && this.shown(i)) {
          least = cost; best = i;
        }
      });
      if (best >= 0) this.select(best);
    }

    select(i) {
      this.current = i;
      const ring = this.svg.querySelector(".ring");
      this.panel.replaceChildren();
      if (i < 0) {
        this.panel.append(make("h4", "A point a datum"), make("p", "Point at one, or tab to the map and use the " +
          "arrow keys, to see the datum and what is decoded from its code."));
        return;
      }
      ring.setAttribute("cx", this.at[i][0]);
      ring.setAttribute("cy", this.at[i][1]);
      const p = this.points;
      this.panel.append(make("h4", p.label[i] < 0 ? "test datum" : this.name(p.label[i])));
      if (p.sheet) this.panel.append(this.pair(i));
      else if (p.names) this.panel.append(this.values(i));
      else if (p.series) this.panel.append(this.windows(i));
      this.panel.append(make("p", "mean squared error " + short(p.error[i])),
        make("p", "at " + short(p.x[i]) + ", " + short(p.y[i]), { className: "quiet" }));
    }

    pair(i) {
      const box = make("div", undefined, { className: "pair" });
      const { width, height, columns } = this.points.sheet;
      for (const part of ["original", "decoded"]) {
        const figure = make("figure");
        const canvas = make("canvas", undefined, { width, height });
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", part);
        const image = this.images[part];
        if (image.complete && image.naturalWidth) {
          canvas.getContext("2d").drawImage(image, (i % columns) * width, Math.floor(i / columns) * height,
            width, height, 0, 0, width, height);
        }
        figure.append(canvas, make("figcaption", part));
        box.append(figure);
      }
      return box;
    }

    values(i) {
      const table = make("table");
      const head = table.createTHead().insertRow();
      for (const word of ["", "original", "decoded"]) head.append(make("th", word, { scope: "col" }));
      const body = table.createTBody();
      this.points.names.forEach((name, j) => {
        const row = body.insertRow();
        row.append(make("th", name, { scope: "row" }), make("td", short(this.points.original[i][j])),
          make("td", short(this.points.decoded[i][j])));
      });
      return table;
    }

    windows(i) {
      const box = make("div"), { original, decoded } = this.points.series;
      const y = scale([...original[i].flat(), ...decoded[i].flat()].filter((v) => v !== null), 86, 4);
      for (const part of ["original", "decoded"]) {
        const figure = make("figure");
        figure.innerHTML = '<svg viewBox="0 0 200 90" role="img" aria-label="' + part + '">' +
          lines(this.points.series[part][i], y) + "</svg>";
        figure.append(make("figcaption", part));
        box.append(figure);
      }
      return box;
    }
  }

  for (const place of document.querySelectorAll("[data-map]")) {
    const choice = place.parentElement.querySelector("select");
    const draw = () => {
      const points = data.maps[Number(choice ? choice.value : place.dataset.map)];

      new LatentMap(place, points);
      const note = place.parentElement.querySelector(".map-note");
      if (note) note.textContent = points.note;
    };
    if (choice) choice.addEventListener("change", draw);
    draw();
  }
})();
