"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { samples, bands, peak, texts, allocations } = data;
  const element = (id) => document.getElementById(id);
  const chart = element("timeline");
  const treemap = element("treemap");
  const tip = element("tip");

  const MARGIN = { l: 72, r: 16, t: 26, b: 34 };
  const STRIP = 0.055; // the part of the chart's height that the phases take
  const OUTSIDE = "outside of modules";
  const ROWS = 25;
  const LEAST_PIXELS = 50000; // of modules' tiles that are divided into modules, on average

  // What the reader chose.
  const view = {
    from: 0,
    to: data.moments,
    y: null, // the bytes from and to, or null for those that fit
    only: null, // a category
    moment: peak.moment, // what the treemap and the table are of
    root: "", // the module that the treemap and the table are of; empty for all
    sort: { column: "bytes", up: false },
    rows: ROWS,
  };

  // ---- Numbers and texts

  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

  function unitOf(bytes) {
    return Math.max(0, Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, Math.abs(bytes))) / 10)));
  }

  function readable(bytes) {
    const unit = unitOf(bytes);
    const value = bytes / 1024 ** unit;
    return `${unit && value < 100 ? value.toPrecision(3) : Math.round(value)} ${UNITS[unit]}`;
  }

  const count = (number) => number.toLocaleString("en-US");
  const exact = (bytes) => `${count(bytes)} bytes`;
  const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
  const percent = (part, whole) => `${((100 * part) / whole || 0).toFixed(1)}%`;
  // Plotly reads tags and entities in what it draws.
  const literal = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const lastPart = (line) => line.slice(line.split(" in ", 1)[0].lastIndexOf("/") + 1);

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const style = () => {
    const computed = getComputedStyle(document.documentElement);
    return (name) => computed.getPropertyValue(`--${name.replaceAll(" ", "-")}`).trim();
  };
  const categoryColor = (category) => `category-${data.categories[category]}`;

  function swatch(name) {
    const made = make("span", { className: "swatch" });
    made.style.background = `var(--${name.replaceAll(" ", "-")})`;
    return made;
  }

  function inkOn(color) {
    const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#10141a" : "#ffffff";
  }

  // ---- The curve

  /** The bytes of each category at each sample. */
  const live = data.series.map((series) => {
    const values = new Float64Array(samples.moment.length);
    series.sample.forEach((sample, index) => {
      values.fill(series.bytes[index], sample, series.sample[index + 1] ?? values.length);
    });
    return values;
  });
  const total = new Float64Array(samples.moment.length);
  live.forEach((values) => values.forEach((bytes, sample) => (total[sample] += bytes)));

  /** Where each step began. */
  const steps = bands.moment
    .map((moment, band) => ({ moment, step: bands.step[band] }))
    .filter(({ step }, band) => step !== bands.step[band - 1]);

  const shown = () => (view.only === null ? total : live[view.only]);

  /** The last of ascending numbers that is at most a value; -1 if none is. */
  function lastUpTo(ascending, value) {
    let [low, high] = [0, ascending.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ascending[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /**
   * What is drawn of a range of moments: the samples in it and where each begins. Where they are closer than pixels, one
   * sample a column, the highest that is reached in it, so that no peak is too narrow to be seen.
   */
  function drawn(values, from, to, columns) {
    const first = Math.max(0, lastUpTo(samples.moment, from));
    const stop = lastUpTo(samples.moment, to) + 1;
    if (stop - first <= columns) {
      const kept = Array.from({ length: stop - first }, (_, index) => first + index);
      return { kept, x: kept.map((sample) => samples.moment[sample]) };
    }
    const [kept, x] = [[], []];
    let sample = first;
    for (let column = 0; column < columns; column++) {
      const edge = from + ((to - from) * (column + 1)) / columns;
      if (samples.moment[sample] >= edge) continue; // before the first
      let highest = sample; // what is alive when the column begins
      while (sample + 1 < stop && samples.moment[sample + 1] < edge) {
        sample++;
        if (values[sample] > values[highest]) highest = sample;
      }
      kept.push(highest);
      x.push(from + ((to - from) * column) / columns);
    }
    return { kept, x };
  }

  function ticks(low, high) {
    const unit = 1024 ** unitOf(high);
    const rough = (high - low) / unit / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const values = [];
    for (let tick = Math.ceil(low / unit / step); tick * step <= high / unit; tick++) values.push(tick * step);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return {
      tickvals: values.map((value) => value * unit),
      ticktext: values.map((value) => (value ? `${value.toFixed(digits)} ${UNITS[unitOf(high)]}` : "0")),
    };
  }

  const plotWidth = () => Math.max(1, chart.clientWidth - MARGIN.l - MARGIN.r);

  function areas(color) {
    const { from, to } = view;
    const { kept, x } = drawn(shown(), from, to, Math.ceil(plotWidth() / 2));
    x.push(Math.max(to, x[x.length - 1] ?? to)); // what is alive last stays so to the edge
    return data.categories.flatMap((name, category) => {
      if (view.only !== null && view.only !== category) return [];
      const y = kept.map((sample) => live[category][sample]);
      y.push(y[y.length - 1] ?? 0);
      const fill = color(`category-${name}`);
      const line = { shape: "hv", width: 0.6, color: color("surface") };
      return [{ type: "scatter", mode: "lines", name, stackgroup: "live", x, y, line, fillcolor: fill, hoverinfo: "skip" }];
    });
  }

  /** The phases as bars; of those narrower than a pixel only as many as can be seen. */
  function phaseBars(color) {
    const pixel = (view.to - view.from) / plotWidth();
    const bars = data.phases.map(() => ({ base: [], x: [] }));
    let edge = view.from;
    for (let band = Math.max(0, lastUpTo(bands.moment, view.from)); band < bands.moment.length; band++) {
      if (bands.moment[band] > view.to) break;
      let next = band + 1;
      while (next < bands.moment.length && bands.phase[next] === bands.phase[band]) next++;
      const end = Math.min(view.to, bands.moment[next] ?? data.moments);
      if (end - edge >= pixel) {
        bars[bands.phase[band]].base.push(edge);
        bars[bands.phase[band]].x.push(end - edge);
        edge = end;
      }
      band = next - 1;
    }
    return data.phases.map((name, phase) => ({
      type: "bar", orientation: "h", name, yaxis: "y2", hoverinfo: "skip", width: 1,
      ...bars[phase],
      y: bars[phase].x.map(() => 0),
      text: bars[phase].x.map(() => name),
      textposition: "inside", insidetextanchor: "middle", textangle: 0, textfont: { color: color("text"), size: 11 },
      marker: { color: color(`phase-${name}`), line: { width: 0 } },
    }));
  }

  function marks(color, top) {
    const [shapes, annotations] = [[], []];
    const font = { color: color("text"), size: 12 };
    const inside = (moment) => moment >= view.from && moment <= view.to;
    const upright = (moment, line) =>
      shapes.push({ type: "line", x0: moment, x1: moment, y0: STRIP, y1: 1, yref: "paper", line });

    steps.forEach(({ moment, step }, index) => {
      if (moment > view.from && moment <= view.to) upright(moment, { color: color("quiet"), width: 1, dash: "dot" });
      const at = Math.max(moment, view.from);
      const end = Math.min(steps[index + 1]?.moment ?? Infinity, view.to);
      if (((end - at) / (view.to - view.from)) * plotWidth() < 56) return; // no room for the name
      annotations.push({ x: at, y: 1, yref: "paper", xanchor: "left", yanchor: "bottom", text: `step ${step + 1}`,
        showarrow: false, font: { color: color("quiet"), size: 11 } });
    });

    if (data.capacity && data.capacity <= top) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.capacity, y1: data.capacity,
        line: { color: color("bad"), width: 1.5, dash: "dash" } });
      annotations.push({ xref: "paper", x: 0, y: data.capacity, xanchor: "left", yanchor: "bottom", showarrow: false,
        text: `the device has ${readable(data.capacity)}`, font: { color: color("bad"), size: 12 } });
    }

    if (view.moment !== peak.moment && inside(view.moment)) {
      upright(view.moment, { color: color("accent"), width: 1.5 });
    }
    if (inside(peak.moment)) {
      // Only above the curve, as what there is at the peak may be thinner than the line.
      const height = shown()[peak.sample];
      shapes.push({ type: "line", x0: peak.moment, x1: peak.moment, y0: height, y1: top,
        line: { color: color("text"), width: 1, dash: "dot" } });
      const right = (peak.moment - view.from) / (view.to - view.from) > 0.7;
      annotations.push({ x: peak.moment, y: height, ax: right ? -34 : 34, ay: -14, xanchor: right ? "right" : "left",
        text: `<b>${view.only === null ? "peak" : "at the peak"}: ${readable(height)}</b>`, font,
        bgcolor: color("surface"), bordercolor: color("line"), borderpad: 3, arrowcolor: color("text"), arrowhead: 2,
        arrowsize: 0.8, arrowwidth: 1.2 });
    }
    return { shapes, annotations };
  }

  function drawTimeline() {
    const color = style();
    let highest = shown().reduce((most, bytes) => Math.max(most, bytes), 1);
    if (view.only === null && data.capacity && data.capacity < 1.6 * highest) highest = Math.max(highest, data.capacity);
    const [low, high] = view.y ?? [0, 1.1 * highest];
    const axis = { gridcolor: color("line"), zeroline: false, tickfont: { color: color("quiet"), size: 12 } };
    const layout = {
      autosize: true,
      margin: { ...MARGIN, autoexpand: false },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily },
      showlegend: false,
      hovermode: false,
      dragmode: "zoom",
      barmode: "overlay",
      bargap: 0,
      uniformtext: { mode: "hide", minsize: 11 },
      xaxis: { ...axis, anchor: "y2", range: [view.from, view.to], tickformat: ",d", nticks: Math.ceil(plotWidth() / 120),
        showgrid: false, title: { text: "moment", standoff: 4, font: { color: color("quiet"), size: 12 } } },
      yaxis: { ...axis, range: [low, high], domain: [STRIP + 0.015, 1], tickmode: "array", ...ticks(low, high) },
      yaxis2: { domain: [0, STRIP], range: [-0.5, 0.5], fixedrange: true, visible: false },
      ...marks(color, high),
    };
    const config = { displayModeBar: false, doubleClick: false, responsive: false, showTips: false };
    element("zoom-out").disabled = view.from === 0 && view.to === data.moments && view.y === null;
    return Plotly.react(chart, [...areas(color), ...phaseBars(color)], layout, config);
  }

  // ---- Zooming and pointing

  const momentAt = (clientX) =>
    view.from + ((clientX - chart.getBoundingClientRect().left - MARGIN.l) / plotWidth()) * (view.to - view.from);

  function zoom(from, to) {
    const width = Math.min(data.moments, Math.max(4, to - from));
    view.from = Math.min(Math.max(0, from), data.moments - width);
    view.to = view.from + width;
    drawSoon();
  }

  function showAll() {
    Object.assign(view, { from: 0, to: data.moments, y: null });
    drawSoon();
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawTimeline();
    });
  }

  /** What is drawn at a pixel: the highest sample there, or the last one before. */
  function sampleAt(clientX) {
    const near = (pixels) => [momentAt(clientX - pixels), momentAt(clientX + pixels)];
    const [left, right] = near(4);
    if (peak.moment >= left && peak.moment <= right) return peak.sample;
    const [from, to] = near(0.5);
    const last = lastUpTo(samples.moment, to);
    let best = last;
    for (let sample = last; sample >= 0 && samples.moment[sample] >= from; sample--) {
      if (shown()[sample] > shown()[best]) best = sample;
    }
    return best;
  }

  function describeSample(sample) {
    const moment = samples.moment[sample];
    const band = lastUpTo(bands.moment, moment);
    const row = samples.allocation[sample];
    const rows = [];
    for (let category = live.length - 1; category >= 0; category--) {
      if (live[category][sample]) rows.push([category, live[category][sample]]);
    }
    const head = `moment ${count(moment)} · ${data.phases[bands.phase[band]]} · step ${bands.step[band] + 1}`;
    return [
      make("div", { className: "name" }, moment === peak.moment ? `${head} · the peak` : head),
      bytesTable(rows, total[sample]),
      make("div", {}, `${samples.birth[sample] ? "+" : "−"} ${readable(allocations.bytes[row])} `,
        make("span", { className: "quiet" }, samples.birth[sample] ? "allocated" : "given back",
          ` (${exact(allocations.bytes[row])}, ${data.categories[allocations.category[row]]})`)),
      ...[allocations.operator, allocations.module, allocations.line]
        .map((column) => texts[column[row]])
        .filter(Boolean)
        .map((text) => make("div", { className: "quiet" }, text)),
    ];
  }

  function bytesTable(rows, whole) {
    const line = (label, bytes, ...before) =>
      make("tr", {}, make("td", {}, ...before, label), make("td", { className: "number" }, readable(bytes)),
        make("td", { className: "number quiet" }, exact(bytes)));
    return make("table", {}, make("tbody", {}, line("all", whole),
      ...rows.map(([category, bytes]) => line(data.categories[category], bytes, swatch(categoryColor(category))))));
  }

  function showTip(clientX, clientY, parts) {
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const x = clientX + 18 + width > window.innerWidth ? clientX - 18 - width : clientX + 18;
    const y = Math.min(clientY + 14, window.innerHeight - height - 8);
    tip.style.transform = `translate(${Math.max(8, x)}px, ${Math.max(8, y)}px)`;
  }

  function hideTip() {
    tip.hidden = true;
    cursor.hidden = true;
  }

  const cursor = make("div", { id: "cursor", hidden: true });

  function point(clientX, clientY) {
    const sample = sampleAt(clientX);
    if (sample < 0) return hideTip();
    const x = MARGIN.l + ((samples.moment[sample] - view.from) / (view.to - view.from)) * plotWidth();
    cursor.style.left = `${Math.max(MARGIN.l, x)}px`;
    cursor.style.top = `${MARGIN.t}px`;
    cursor.style.height = `${chart.clientHeight - MARGIN.t - MARGIN.b}px`;
    cursor.hidden = false;
    showTip(clientX, clientY, describeSample(sample));
    return sample;
  }

  const insidePlot = (event) => {
    const box = chart.getBoundingClientRect();
    return event.clientX >= box.left + MARGIN.l && event.clientX <= box.right - MARGIN.r &&
      event.clientY >= box.top && event.clientY <= box.bottom - MARGIN.b;
  };

  function listenToTimeline() {
    chart.append(cursor);
    chart.on("plotly_relayout", (change) => {
      const read = (axis) => [change[`${axis}.range[0]`], change[`${axis}.range[1]`]];
      const [x, y] = [read("xaxis"), read("yaxis")];
      if (x[0] === undefined && y[0] === undefined) return;
      if (y[0] !== undefined) view.y = [Math.max(0, y[0]), y[1]];
      if (x[0] !== undefined) zoom(...x);
      else drawSoon();
    });
    chart.on("plotly_doubleclick", showAll);
    chart.addEventListener("wheel", (event) => {
      const everything = view.from === 0 && view.to === data.moments;
      if (!insidePlot(event) || event.ctrlKey || !event.deltaY || (everything && event.deltaY > 0)) return;
      event.preventDefault();
      const [center, factor] = [momentAt(event.clientX), 1.0016 ** Math.max(-300, Math.min(300, event.deltaY))];
      zoom(center - (center - view.from) * factor, center + (view.to - center) * factor);
      hideTip();
    }, { passive: false });

    chart.addEventListener("mousemove", (event) => {
      if (event.buttons || !insidePlot(event)) hideTip();
      else point(event.clientX, event.clientY);
    });
    chart.addEventListener("mouseleave", hideTip);

    let [pressed, picking] = [null, 0];
    chart.addEventListener("mousedown", (event) => {
      hideTip();
      clearTimeout(picking);
      pressed = insidePlot(event) && event.button === 0 && event.detail === 1 ? event : null;
    }, true);
    window.addEventListener("mouseup", (event) => {
      if (!pressed || Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > 3) return;
      const sample = sampleAt(event.clientX);
      pressed = null;
      // Unless it becomes a double-click.
      if (data.complete && sample >= 0) picking = setTimeout(() => pick(samples.moment[sample]), 280);
    }, true);

    let keyed = peak.sample;
    chart.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -50, PageDown: 50 };
      const box = chart.getBoundingClientRect();
      const center = Math.min(Math.max(samples.moment[keyed], view.from), view.to);
      if (event.key in moves) keyed = Math.min(total.length - 1, Math.max(0, keyed + moves[event.key]));
      else if (event.key === "Home") keyed = peak.sample;
      else if (event.key === "+") zoom(center - (center - view.from) / 2, center + (view.to - center) / 2);
      else if (event.key === "-") zoom(center - (center - view.from) * 2, center + (view.to - center) * 2);
      else if (event.key === "Escape") showAll();
      else if (event.key === "Enter" && data.complete) pick(samples.moment[keyed]);
      else return;
      event.preventDefault();
      const x = (samples.moment[keyed] - view.from) / (view.to - view.from);
      showTip(box.left + MARGIN.l + x * plotWidth(), box.top + box.height / 3, describeSample(keyed));
    });
    chart.addEventListener("blur", hideTip);
    element("zoom-out").onclick = showAll;
  }

  // ---- What is alive at the moment

  let alive = []; // rows of allocations

  function pick(moment) {
    view.moment = moment;
    alive = allocations.born.flatMap((born, row) => {
      const died = allocations.died[row];
      return born <= moment && (died === null || died > moment) ? [row] : [];
    });
    if (!alive.some((row) => isWithin(moduleOf(row), view.root))) view.root = "";
    const text = moment === peak.moment ? "at the peak" : `at moment ${count(moment)}`;
    document.querySelectorAll(".moment").forEach((span) => (span.textContent = text));
    document.querySelectorAll(".to-peak").forEach((button) => (button.hidden = moment === peak.moment));
    drawAll();
  }

  const moduleOf = (row) => texts[allocations.module[row]] || OUTSIDE;
  const isWithin = (module, root) => root === "" || module === root || module.startsWith(`${root}.`);
  const chosen = (row) => view.only === null || allocations.category[row] === view.only;

  /** The tree of modules below the one that is shown, with the bytes of each and of each category in it. */
  function moduleTree() {
    const node = (path, label) => ({ path, label, bytes: 0, categories: live.map(() => 0), own: live.map(() => 0), children: new Map() });
    const root = node(view.root, view.root || "all modules");
    for (const row of alive) {
      const module = moduleOf(row);
      if (!chosen(row) || !isWithin(module, view.root)) continue;
      const below = module === view.root ? [] : module.slice(view.root && view.root.length + 1).split(".");
      const way = [root];
      for (const name of module === OUTSIDE ? [module] : below) {
        const { path, children } = way[way.length - 1];
        if (!children.has(name)) children.set(name, node(path ? `${path}.${name}` : name, name));
        way.push(children.get(name));
      }
      const [category, bytes] = [allocations.category[row], allocations.bytes[row]];
      for (const { categories } of way) categories[category] += bytes;
      for (const step of way) step.bytes += bytes;
      way[way.length - 1].own[category] += bytes;
    }
    return root;
  }

  /**
   * The tiles: modules, down to those too small to be told apart, and in the innermost the categories.
   * A chain of modules with nothing beside it, such as model.layers, is one.
   */
  function tiles() {
    const root = moduleTree();
    const pixels = treemap.clientWidth * treemap.clientHeight / Math.max(1, root.bytes);
    const found = [];
    const visit = (node, parent, depth, isRoomy) => {
      let label = node.label;
      const alone = (one) => one.children.size === 1 && one.own.every((bytes) => bytes === 0);
      while (depth > 0 && alone(node)) {
        [node] = node.children.values();
        label += `.${node.label}`;
      }
      const id = node.path || "all";
      const divided = node.children.size > 0 && isRoomy;
      const parts = (divided ? node.own : node.categories).flatMap((bytes, category) => (bytes ? [{ category, bytes }] : []));
      if (!divided && parts.length === 1) {
        found.push({ id, parent, label, node, ...parts[0] });
        return;
      }
      if (depth > 0) found.push({ id, parent, label, node });
      // Modules beside one another, such as the layers, are divided alike.
      const parents = [...node.children.values()].filter((child) => child.children.size > 0);
      const room = (parents.reduce((sum, child) => sum + child.bytes, 0) / parents.length) * pixels;
      if (divided) for (const child of node.children.values()) visit(child, depth > 0 ? id : "", depth + 1, room > LEAST_PIXELS);
      for (const { category, bytes } of parts) {
        found.push({ id: `${id}\n${category}`, parent: depth > 0 ? id : "", label: data.categories[category], node, category, bytes });
      }
    };
    visit(root, "", 0, true);
    return found;
  }

  let shownTiles = new Map();

  function drawTreemap() {
    const color = style();
    const found = tiles();
    shownTiles = new Map(found.map((tile) => [tile.id, tile]));
    const bytesOf = (tile) => tile.bytes ?? tile.node.bytes;
    const fill = (tile) => (tile.category === undefined ? color("ground") : color(categoryColor(tile.category)));
    const colors = found.map(fill);
    const trace = {
      type: "treemap",
      ids: found.map((tile) => tile.id),
      labels: found.map((tile) => literal(tile.label)),
      parents: found.map((tile) => tile.parent),
      values: found.map(bytesOf),
      text: found.map((tile) => readable(bytesOf(tile))),
      branchvalues: "total",
      texttemplate: "%{label}<br>%{text}",
      textfont: { color: found.map((tile, index) => (tile.category === undefined ? color("text") : inkOn(colors[index]))), size: 12 },
      marker: { colors, line: { color: color("surface"), width: 1 }, pad: { t: 22, l: 2, r: 2, b: 2 }, cornerradius: 2 },
      tiling: { pad: 1 },
      pathbar: { visible: false },
      hoverinfo: "none",
      sort: true,
    };
    const layout = {
      autosize: true,
      margin: { l: 0, r: 0, t: 0, b: 0 },
      uniformtext: { mode: "hide", minsize: 11 },
      paper_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily },
    };
    drawTrail();
    return Plotly.react(treemap, [trace], layout, { displayModeBar: false });
  }

  function drawTrail() {
    const names = view.root === OUTSIDE || !view.root ? [view.root].filter(Boolean) : view.root.split(".");
    const paths = ["", ...names.map((_, index) => names.slice(0, index + 1).join("."))];
    element("trail").hidden = view.root === "";
    element("enter-hint").hidden = view.root !== "";
    element("trail").replaceChildren(...paths.map((path, index) => {
      const button = make("button", { type: "button", onclick: () => enter(path) }, index ? names[index - 1] : "all modules");
      if (path === view.root) button.setAttribute("aria-current", "true");
      return make("li", {}, button);
    }));
  }

  function enter(path) {
    view.root = path;
    view.rows = ROWS;
    hideTip();
    drawTreemap();
    drawTable();
  }

  function listenToTreemap() {
    treemap.on("plotly_treemapclick", (event) => {
      const tile = shownTiles.get(event.points[0].id);
      if (tile) enter(tile.node.path);
      return false; // The tiles of the module that is entered are others than Plotly has.
    });
    treemap.on("plotly_hover", (event) => {
      const tile = shownTiles.get(event.points[0].id);
      if (!tile) return;
      const { node, category } = tile;
      const whole = alive.reduce((sum, row) => sum + allocations.bytes[row], 0);
      const rows = node.categories.flatMap((bytes, index) => (bytes ? [[index, bytes]] : [])).sort((a, b) => b[1] - a[1]);
      const share = category === undefined ? "" : `${data.categories[category]}: ${percent(tile.bytes, node.bytes)} of the module, ` +
        `${percent(tile.bytes, whole)} of all that is alive`;
      showTip(event.event.clientX, event.event.clientY, [
        make("div", { className: "name" }, node.path || "all modules"),
        make("div", { className: "quiet" }, share || `${percent(node.bytes, whole)} of all that is alive`),
        bytesTable(rows, node.bytes),
      ]);
    });
    treemap.on("plotly_unhover", hideTip);
    treemap.addEventListener("mouseleave", hideTip);
  }

  // ---- The table

  const COLUMNS = [
    { key: "bytes", name: "Bytes", width: "9%", value: (row) => allocations.bytes[row] },
    { key: "category", name: "Category", width: "14%", value: (row) => data.categories[allocations.category[row]] },
    { key: "operator", name: "Operator", width: "19%", value: (row) => texts[allocations.operator[row]] },
    { key: "module", name: "Module", width: "24%", value: (row) => texts[allocations.module[row]] },
    { key: "line", name: "Line", width: "23%", value: (row) => texts[allocations.line[row]] },
    { key: "phase", name: "Phase", width: "11%", value: (row) => data.phases[allocations.phase[row]] },
  ];

  function cell({ key, value }, row) {
    const text = value(row);
    if (key === "bytes") return make("td", { className: "number", title: exact(text) }, readable(text));
    if (key === "category") return make("td", {}, swatch(categoryColor(allocations.category[row])), text);
    if (key === "line") return make("td", { title: text }, lastPart(text));
    return make("td", { title: text }, text);
  }

  function makeHead() {
    element("head").replaceChildren(...COLUMNS.map(({ key, name, width }) => {
      const head = make("th", { scope: "col", id: `column-${key}`, className: key === "bytes" ? "number" : "" });
      head.style.width = width;
      head.append(make("button", { type: "button", onclick: () => {
        view.sort = { column: key, up: view.sort.column === key ? !view.sort.up : key !== "bytes" };
        drawTable();
      } }));
      return head;
    }));
  }

  function drawTable() {
    const { column, up } = view.sort;
    COLUMNS.forEach(({ key, name }) => {
      const head = element(`column-${key}`);
      head.setAttribute("aria-sort", key !== column ? "none" : up ? "ascending" : "descending");
      head.firstChild.textContent = key === column ? `${name} ${up ? "↑" : "↓"}` : name;
    });

    const words = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = alive.filter((row) => {
      if (!chosen(row) || !isWithin(moduleOf(row), view.root)) return false;
      const text = COLUMNS.slice(1).map(({ value }) => value(row)).join("\n").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const { value } = COLUMNS.find(({ key }) => key === column);
    const compare = column === "bytes" ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    found.sort((a, b) => (up ? 1 : -1) * compare(a, b) || allocations.bytes[b] - allocations.bytes[a]);

    const bytes = found.reduce((sum, row) => sum + allocations.bytes[row], 0);
    element("count").textContent = `${plural(found.length, "allocation")}, ${readable(bytes)}`;
    element("count").title = exact(bytes);
    element("rows").replaceChildren(...found.slice(0, view.rows).map((row) => make("tr", {}, ...COLUMNS.map((one) => cell(one, row)))));
    element("more").hidden = found.length <= view.rows;
    element("more").textContent = `Show more (${count(found.length - view.rows)} left)`;
  }

  // ---- The head

  function writeHead() {
    element("title").textContent = data.title;
    element("subtitle").textContent = `Memory of ${data.device} · ${plural(data.moments, "moment")} · ${plural(steps.length, "step")}`;
    const card = (name, value, { className = "", title = "" } = {}) =>
      element("facts").append(make("div", { className, title }, make("dt", {}, name), make("dd", {}, value)));
    if (data.fits !== null) card("verdict", data.fits ? "✓ fits" : "✗ does not fit", { className: data.fits ? "fits" : "exceeds" });
    card("peak of live bytes", readable(peak.bytes), { title: exact(peak.bytes) });
    if (data.capacity) card("device memory", readable(data.capacity), { title: exact(data.capacity) });
    data.facts.forEach(([name, value]) => card(name, value));
    chart.setAttribute("aria-label", `Live bytes of ${data.device} over time, stacked by category. ` +
      `The peak is ${readable(peak.bytes)} at moment ${count(peak.moment)}. Arrow keys move, plus and minus zoom, ` +
      "Enter shows what is alive.");
    element("phases").replaceChildren(...data.phases
      .filter((_, phase) => bands.phase.includes(phase))
      .map((name) => make("li", {}, swatch(`phase-${name}`), name)));
    element("pick-hint").hidden = !data.complete;
  }

  function drawCategories() {
    const sums = live.map(() => 0);
    alive.forEach((row) => (sums[allocations.category[row]] += allocations.bytes[row]));
    const whole = sums.reduce((sum, bytes) => sum + bytes, 0);
    const choices = [[null, "all", whole], ...data.categories.map((name, category) => [category, name, sums[category]])];
    const focused = document.activeElement?.closest("#categories button")?.value;
    element("categories").replaceChildren(...choices.map(([category, name, bytes]) => {
      const button = make("button", { type: "button", value: name, title: `${exact(bytes)}, ${percent(bytes, whole)}`,
        onclick: () => choose(category) });
      button.setAttribute("aria-pressed", String(view.only === category));
      if (category !== null) button.append(swatch(categoryColor(category)));
      button.append(name, make("span", { className: "bytes" }, readable(bytes)));
      return button;
    }));
    if (focused) element("categories").querySelector(`button[value="${focused}"]`).focus();
  }

  function choose(category) {
    view.only = view.only === category ? null : category;
    view.y = null;
    view.rows = ROWS;
    drawAll();
  }

  function drawAll() {
    drawCategories();
    drawTable();
    return Promise.all([drawTimeline(), drawTreemap()]);
  }

  writeHead();
  makeHead();
  element("search").oninput = () => {
    view.rows = ROWS;
    drawTable();
  };
  element("more").onclick = () => {
    view.rows += 20 * ROWS;
    drawTable();
  };
  document.querySelectorAll(".to-peak").forEach((button) => (button.onclick = () => pick(peak.moment)));
  pick(peak.moment);
  listenToTimeline();
  listenToTreemap();

  window.addEventListener("resize", () => {
    drawSoon();
    drawTreemap();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
