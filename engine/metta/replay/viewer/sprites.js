// Sprites of agents and objects. Shapes and letters distinguish them without color (group colors: Okabe and Ito 2008).

const FLOOR = "#1a2026", WALL = "#606c79", BLACK = "#000", WHITE = "#fff", FROZEN_BLUE = "#4aa3ff";
const GROUP_COLORS = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#ffffff", "#d55e00", "#0072b2"];
const OBJECT_COLORS = ["#e8795a", "#6cb6ee", "#4fc79b", "#e0b050", "#c9a0dc", "#9fb4c7"];
const OUTLINES = ["circle", "square", "diamond", "pentagon", "hexagon", "octagon"];
const CORNERS = { diamond: 4, pentagon: 5, hexagon: 6, octagon: 8 };

// A distinct label for each type id: the initials of the first and last word of a name, else one or two of its letters,
// else the type id.
function typeLabels(objectTypes) {
  const wordsOf = type => type.name.split(/[^\p{L}\p{N}]+/u).filter(Boolean).map(word => [...word.toUpperCase()]);
  const startingWith = letter => objectTypes.filter(type => wordsOf(type)[0]?.[0] === letter).length;
  const taken = new Set(), labels = new Map();
  for (const type of objectTypes) {
    const words = wordsOf(type), all = words.flat(), first = all[0];
    const choices = [
      words.length > 1 ? first + words[words.length - 1][0] : startingWith(first) === 1 ? first : undefined,
      ...all.slice(1).map(letter => first + letter),
      String(type.type_id),
    ];
    const label = choices.find(choice => choice && !taken.has(choice));
    taken.add(label);
    labels.set(type.type_id, label);
  }
  return labels;
}

// The outline of each group's agents: the one at index `sprite`, or the next one that no earlier group uses.
function groupOutlines(groups) {
  const taken = new Set();
  return groups.map(group => {
    const order = OUTLINES.map((_, i) => OUTLINES[(group.sprite + i) % OUTLINES.length]);
    const outline = order.find(name => !taken.has(name)) ?? order[0];
    taken.add(outline);
    return outline;
  });
}

// A mark for each group: empty for the first group with an outline, then A, B, ... for others with the same outline.
function groupMarks(outlines) {
  return outlines.map((outline, index) => {
    const earlier = outlines.slice(0, index).filter(other => other === outline).length;
    return earlier ? String.fromCharCode(64 + earlier) : "";
  });
}

class SpritePainter {
  constructor(episode) {
    this.labels = typeLabels([...episode.objectTypes.values()].filter(type => type.type !== "wall"));
    this.outlines = groupOutlines(episode.groups);
    this.marks = groupMarks(this.outlines);
  }

  // Paint a sprite into the square with side `size` and upper left corner (x, y); `state` as returned by `spriteState`.
  paint(context, x, y, size, state) {
    context.save();
    context.translate(x, y);
    context.scale(size, size);
    context.lineJoin = "round";
    if (state.objectType === undefined) this.paintAgent(context, size, state);
    else if (state.objectType.type !== "wall") this.paintConverter(context, size, state);
    else if (state.objectType.swappable) paintBlock(context);
    else paintWall(context, size);
    context.restore();
  }

  paintAgent(context, size, { group, orientation, frozen, label }) {
    const [down, right] = AHEAD[orientation] ?? [0, 0];
    // a triangle on the side that the agent faces
    context.fillStyle = WHITE;
    context.beginPath();
    context.moveTo(0.5 + right * 0.5, 0.5 + down * 0.5);
    context.lineTo(0.5 + right * 0.22 + down * 0.24, 0.5 + down * 0.22 + right * 0.24);
    context.lineTo(0.5 + right * 0.22 - down * 0.24, 0.5 + down * 0.22 - right * 0.24);
    context.fill();
    outline(context, this.outlines[group], 0.34);
    context.fillStyle = frozen ? "#dfe9f2" : GROUP_COLORS[group % GROUP_COLORS.length];
    context.fill();
    context.lineWidth = frozen ? 0.1 : 0.06;
    context.strokeStyle = frozen ? FROZEN_BLUE : WHITE;
    context.stroke();
    if (frozen) paintFrozenSpikes(context);
    if (size >= 14) paintText(context, label, 0.5, 0.52, label.length > 2 ? 0.28 : 0.36, BLACK);
    if (this.marks[group]) paintBadge(context, size, this.marks[group], 0.66);
  }

  paintConverter(context, size, { objectType, busy, ready }) {
    const shape = { mine: "dome", generator: "hexagon", converter: "square" }[objectType.type];
    outline(context, shape, 0.44);
    context.fillStyle = OBJECT_COLORS[objectType.color % OBJECT_COLORS.length];
    context.globalAlpha = busy ? 0.75 : 1;
    context.fill();
    context.globalAlpha = 1;
    if (size >= 12) {
      context.lineWidth = 0.05;
      context.strokeStyle = BLACK;
      context.stroke();
      paintText(context, this.labels.get(objectType.type_id), 0.5, 0.54, 0.4, BLACK);
    }
    if (busy) for (const i of [0, 1, 2]) paintDot(context, 0.34 + 0.16 * i, 0.82, 0.05);
    if (ready) paintBadge(context, size, String(ready), 0.02);
  }
}

// Paint a zigzag line from attacker to target and a ring around the target. `from` and `to` are (x, y); they are equal
// when an agent hits itself.
function paintAttack(context, size, from, to) {
  const normal = [(to[1] - from[1]) / 6, (from[0] - to[0]) / 6];
  const pointAt = (fraction, side) => [0, 1].map(axis => from[axis] + (to[axis] - from[axis]) * fraction + normal[axis] * side);
  for (const [width, color] of [[0.16, BLACK], [0.08, "#ff5a4d"]]) {
    context.strokeStyle = color;
    context.lineWidth = Math.max(1.5, width * size);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...pointAt(0.4, 1));
    context.lineTo(...pointAt(0.5, -1));
    context.lineTo(...to);
    context.stroke();
    context.beginPath();
    context.arc(...to, 0.46 * size, 0, 2 * Math.PI);
    context.stroke();
  }
}

// The state of an entity at a step that its sprite shows.
function spriteState(episode, entity, step) {
  if (isAgent(entity)) {
    return {
      group: entity.group,
      orientation: valueAt(entity["agent:orientation"], step),
      frozen: valueAt(entity["agent:frozen"], step),
      label: String(entity.agent_id),
    };
  }
  const objectType = episode.objectTypes.get(entity.type);
  const outputs = Object.keys(objectType.output ?? {});
  return {
    objectType,
    busy: valueAt(entity.converting ?? 0, step),
    ready: outputs.reduce((sum, item) => sum + valueAt(entity[`inv:${item}`] ?? 0, step), 0),
  };
}

// Define the path of a shape in the unit square, without painting it.
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

function paintWall(context, size) {
  context.fillStyle = WALL;
  context.fillRect(0, 0, 1.01, 1.01);
  if (size < 10) return;
  context.fillStyle = "#47515c";
  for (const [x, y, width, height] of [[0, 0.48, 1, 0.05], [0, 0.95, 1, 0.05], [0.48, 0, 0.05, 0.48], [0.2, 0.53, 0.05, 0.42], [0.75, 0.53, 0.05, 0.42]]) {
    context.fillRect(x, y, width, height);
  }
}

function paintBlock(context) {
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

// Paint six spikes around a frozen agent.
function paintFrozenSpikes(context) {
  context.lineWidth = 0.07;
  context.beginPath();
  for (let i = 0; i < 6; i++) {
    const angle = (Math.PI * i) / 3 + Math.PI / 6;
    context.moveTo(0.5 + 0.34 * Math.cos(angle), 0.5 + 0.34 * Math.sin(angle));
    context.lineTo(0.5 + 0.5 * Math.cos(angle), 0.5 + 0.5 * Math.sin(angle));
  }
  context.stroke();
}

// Paint a number or letter in a box at the right edge; `top` is its distance from the upper edge, as a fraction of the
// sprite. Sprites smaller than 18 pixels get a box without text.
function paintBadge(context, size, label, top) {
  context.fillStyle = BLACK;
  if (size < 18) context.fillRect(0.72, top + 0.06, 0.2, 0.2);
  else {
    context.fillRect(0.66, top, 0.32, 0.34);
    paintText(context, label, 0.82, top + 0.18, 0.28, WHITE);
  }
}

function paintDot(context, x, y, radius) {
  context.fillStyle = BLACK;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function paintText(context, label, x, y, height, color) {
  context.fillStyle = color;
  // drawn at 100 times the size and scaled down, because browsers do not draw fonts smaller than a pixel
  context.save();
  context.translate(x, y);
  context.scale(0.01, 0.01);
  context.font = `bold ${height * 100}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(label, 0, 0);
  context.restore();
}
