// Pictures of things. Shape and letters tell them apart; color only repeats it (palette: Okabe and Ito).

const FLOOR = "#1a2026", WALL = "#606c79", INK = "#000", PALE = "#fff", ICE = "#4aa3ff";
const GROUP_COLORS = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#ffffff", "#d55e00", "#0072b2"];
const OBJECT_COLORS = ["#e8795a", "#6cb6ee", "#4fc79b", "#e0b050", "#c9a0dc", "#9fb4c7"];
const OUTLINES = ["circle", "square", "diamond", "pentagon", "hexagon", "octagon"];
const CORNERS = { diamond: 4, pentagon: 5, hexagon: 6, octagon: 8 };

// One or two letters for each object type, no two alike: the initials of its words, or letters of its only word.
function letterings(kinds) {
  const wordsOf = kind => kind.name.split(/[^\p{L}\p{N}]+/u).filter(Boolean).map(word => [...word.toUpperCase()]);
  const begins = letter => kinds.filter(kind => wordsOf(kind)[0]?.[0] === letter).length;
  const taken = new Set(), letters = new Map();
  for (const kind of kinds) {
    const words = wordsOf(kind), all = words.flat(), first = all[0];
    const choices = [
      words.length > 1 ? first + words[words.length - 1][0] : begins(first) === 1 ? first : undefined,
      ...all.slice(1).map(letter => first + letter),
      String(kind.type_id),
    ];
    const choice = choices.find(choice => choice && !taken.has(choice));
    taken.add(choice);
    letters.set(kind.type_id, choice);
  }
  return letters;
}

// The outline of a group's agents: the one its sprite names, unless an earlier group has it.
function groupOutlines(groups) {
  const taken = new Set();
  return groups.map(group => {
    const order = OUTLINES.map((_, i) => OUTLINES[(group.sprite + i) % OUTLINES.length]);
    const outline = order.find(name => !taken.has(name)) ?? order[0];
    taken.add(outline);
    return outline;
  });
}

// A letter for each group after the first with its outline; for the first none.
function groupMarks(outlines) {
  return outlines.map((outline, index) => {
    const earlier = outlines.slice(0, index).filter(other => other === outline).length;
    return earlier ? String.fromCharCode(64 + earlier) : "";
  });
}

class Painter {
  constructor(episode) {
    this.letters = letterings([...episode.kinds.values()].filter(kind => kind.type !== "wall"));
    this.outlines = groupOutlines(episode.groups);
    this.marks = groupMarks(this.outlines);
  }

  // Draws `thing` into the square of side `size` at (x, y); `state` as from `thingState`.
  paint(context, x, y, size, state) {
    context.save();
    context.translate(x, y);
    context.scale(size, size);
    context.lineJoin = "round";
    if (state.kind === undefined) this.agent(context, size, state);
    else if (state.kind.type !== "wall") this.converter(context, size, state);
    else if (state.kind.swappable) block(context);
    else wall(context, size);
    context.restore();
  }

  agent(context, size, { group, orientation, frozen, label }) {
    const [down, right] = FACING[orientation] ?? [0, 0];
    // the beak shows where it faces
    context.fillStyle = PALE;
    context.beginPath();
    context.moveTo(0.5 + right * 0.5, 0.5 + down * 0.5);
    context.lineTo(0.5 + right * 0.22 + down * 0.24, 0.5 + down * 0.22 + right * 0.24);
    context.lineTo(0.5 + right * 0.22 - down * 0.24, 0.5 + down * 0.22 - right * 0.24);
    context.fill();
    outline(context, this.outlines[group], 0.34);
    context.fillStyle = frozen ? "#dfe9f2" : GROUP_COLORS[group % GROUP_COLORS.length];
    context.fill();
    context.lineWidth = frozen ? 0.1 : 0.06;
    context.strokeStyle = frozen ? ICE : PALE;
    context.stroke();
    if (frozen) spikes(context);
    if (size >= 14) text(context, label, 0.5, 0.52, label.length > 2 ? 0.28 : 0.36, INK);
    if (this.marks[group]) badge(context, size, this.marks[group], 0.66);
  }

  converter(context, size, { kind, busy, waiting }) {
    const shape = { mine: "dome", generator: "hexagon", converter: "square" }[kind.type];
    outline(context, shape, 0.44);
    context.fillStyle = OBJECT_COLORS[kind.color % OBJECT_COLORS.length];
    context.globalAlpha = busy ? 0.75 : 1;
    context.fill();
    context.globalAlpha = 1;
    if (size >= 12) {
      context.lineWidth = 0.05;
      context.strokeStyle = INK;
      context.stroke();
      text(context, this.letters.get(kind.type_id), 0.5, 0.54, 0.4, INK);
    }
    if (busy) for (const i of [0, 1, 2]) dot(context, 0.34 + 0.16 * i, 0.82, 0.05);
    if (waiting) badge(context, size, String(waiting), 0.02);
  }
}

// A jagged line from attacker to victim, or a ring around one who hits itself; `from` and `to` are (x, y).
function strike(context, size, from, to) {
  const across = [(to[1] - from[1]) / 6, (from[0] - to[0]) / 6];
  const along = (part, side) => [0, 1].map(axis => from[axis] + (to[axis] - from[axis]) * part + across[axis] * side);
  for (const [width, color] of [[0.16, INK], [0.08, "#ff5a4d"]]) {
    context.strokeStyle = color;
    context.lineWidth = Math.max(1.5, width * size);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...along(0.4, 1));
    context.lineTo(...along(0.5, -1));
    context.lineTo(...to);
    context.stroke();
    context.beginPath();
    context.arc(...to, 0.46 * size, 0, 2 * Math.PI);
    context.stroke();
  }
}

// What of a thing shows at a step.
function thingState(episode, thing, step) {
  if (isAgent(thing)) {
    return {
      group: thing.group,
      orientation: valueAt(thing["agent:orientation"], step),
      frozen: valueAt(thing["agent:frozen"], step),
      label: String(thing.agent_id),
    };
  }
  const kind = episode.kinds.get(thing.type);
  const outputs = Object.keys(kind.output ?? {});
  return {
    kind,
    busy: valueAt(thing.converting ?? 0, step),
    waiting: outputs.reduce((sum, item) => sum + valueAt(thing[`inv:${item}`] ?? 0, step), 0),
  };
}

function outline(context, shape, radius) {
  context.beginPath();
  if (shape === "circle") context.arc(0.5, 0.5, radius, 0, 2 * Math.PI);
  else if (shape === "square") context.rect(0.5 - radius * 0.9, 0.5 - radius * 0.9, radius * 1.8, radius * 1.8);
  else if (shape === "dome") {
    context.arc(0.5, 0.5, radius, Math.PI, 0);
    context.lineTo(0.5 + radius, 0.5 + radius * 0.9);
    context.lineTo(0.5 - radius, 0.5 + radius * 0.9);
  } else {
    const corners = CORNERS[shape];
    for (let i = 0; i < corners; i++) {
      const angle = (2 * Math.PI * i) / corners - Math.PI / 2;
      context.lineTo(0.5 + radius * 1.12 * Math.cos(angle), 0.5 + radius * 1.12 * Math.sin(angle));
    }
  }
  context.closePath();
}

function wall(context, size) {
  context.fillStyle = WALL;
  context.fillRect(0, 0, 1.01, 1.01);
  if (size < 10) return;
  context.fillStyle = "#47515c";
  for (const [x, y, width, height] of [[0, 0.48, 1, 0.05], [0, 0.95, 1, 0.05], [0.48, 0, 0.05, 0.48], [0.2, 0.53, 0.05, 0.42], [0.75, 0.53, 0.05, 0.42]]) {
    context.fillRect(x, y, width, height);
  }
}

function block(context) {
  context.fillStyle = "#8d7a63";
  context.fillRect(0.08, 0.08, 0.84, 0.84);
  context.strokeStyle = "#2d251b";
  context.lineWidth = 0.07;
  context.strokeRect(0.08, 0.08, 0.84, 0.84);
  context.beginPath();
  context.moveTo(0.12, 0.12);
  context.lineTo(0.88, 0.88);
  context.moveTo(0.88, 0.12);
  context.lineTo(0.12, 0.88);
  context.stroke();
}

// Ice around what is frozen.
function spikes(context) {
  context.lineWidth = 0.07;
  context.beginPath();
  for (let i = 0; i < 6; i++) {
    const angle = (Math.PI * i) / 3 + Math.PI / 6;
    context.moveTo(0.5 + 0.34 * Math.cos(angle), 0.5 + 0.34 * Math.sin(angle));
    context.lineTo(0.5 + 0.5 * Math.cos(angle), 0.5 + 0.5 * Math.sin(angle));
  }
  context.stroke();
}

// A number or letter in a box at the right, `top` from above; the box alone where it is too small to be read.
function badge(context, size, words, top) {
  context.fillStyle = INK;
  if (size < 18) context.fillRect(0.72, top + 0.06, 0.2, 0.2);
  else {
    context.fillRect(0.66, top, 0.32, 0.34);
    text(context, words, 0.82, top + 0.18, 0.28, PALE);
  }
}

function dot(context, x, y, radius) {
  context.fillStyle = INK;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function text(context, words, x, y, height, color) {
  context.fillStyle = color;
  // drawn at 100 times the size, since fonts below a pixel are not
  context.save();
  context.translate(x, y);
  context.scale(0.01, 0.01);
  context.font = `bold ${height * 100}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(words, 0, 0);
  context.restore();
}
