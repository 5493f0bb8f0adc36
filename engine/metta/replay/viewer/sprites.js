// Sprites: how agents and objects are drawn. Teams differ by shape and color (colors: Okabe and Ito 2008).

const { frozen: FROZEN_BLUE, frozenFill: FROZEN_FILL, attack: ATTACK } = SHAPES;
const { groups: GROUP_COLORS, tints: OBJECT_COLORS, outlines: OUTLINES } = SHAPES;
// (x, y) of the corners of each outline, as multiples of its radius.
const CORNERS = SHAPES.corners;

// The colors of the page, read from its style sheet: by name, such as `floor` for --floor.
const theme = {};
const THEME_COLORS = ["outside", "floor", "seen", "grid", "wall", "mortar", "ink", "paper", "accent", "line", "muted"];

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of THEME_COLORS) theme[name] = style.getPropertyValue(`--${name}`).trim();
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
    this.outlines = groupOutlines(episode.groups);
    this.marks = groupMarks(this.outlines);
    this.letters = episode.glyphs;
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
    context.fillStyle = theme.ink;
    context.beginPath();
    context.moveTo(0.5 + right * 0.5, 0.5 + down * 0.5);
    context.lineTo(0.5 + right * 0.18 + down * 0.3, 0.5 + down * 0.18 + right * 0.3);
    context.lineTo(0.5 + right * 0.18 - down * 0.3, 0.5 + down * 0.18 - right * 0.3);
    context.fill();
    outline(context, this.outlines[group], 0.31);
    context.lineWidth = frozen ? 0.12 : 0.09;
    context.strokeStyle = frozen ? FROZEN_BLUE : theme.ink;
    context.stroke();
    context.fillStyle = frozen ? FROZEN_FILL : GROUP_COLORS[group % GROUP_COLORS.length];
    context.fill();
    if (frozen) paintFrozenSpikes(context);
    else {
      context.lineWidth = 0.03;
      context.strokeStyle = INK;
      context.stroke();
    }
    if (size >= 14) paintText(context, label, 0.5, 0.52, label.length > 2 ? 0.28 : 0.38, INK);
    if (this.marks[group]) paintBadge(context, size, this.marks[group], 0.66);
  }

  paintConverter(context, size, { objectType, busy, ready, faint }) {
    if (faint) context.globalAlpha = SHAPES.faint;
    const [icon, mark] = objectIcon(objectType, this.letters[objectType.name]);
    context.save();
    context.translate(0.04, 0.04);
    context.scale(0.92, 0.92);
    paintIcon(context, icon, { ...mark, tint: OBJECT_COLORS[objectType.color % OBJECT_COLORS.length] });
    context.restore();
    if (busy && size >= 12) paintBusy(context);
    if (ready) paintBadge(context, size, String(ready), 0.01);
  }
}

// Paint a zigzag line from attacker to target and a ring around the target. `from` and `to` are (x, y); they are equal
// when an agent hits itself.
function paintAttack(context, size, from, to) {
  const normal = [(to[1] - from[1]) / 6, (from[0] - to[0]) / 6];
  const pointAt = (fraction, side) => [0, 1].map(axis => from[axis] + (to[axis] - from[axis]) * fraction + normal[axis] * side);
  for (const [width, color] of [[0.16, INK], [0.08, ATTACK]]) {
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

// Whether an object of a registered type is drawn faintly: a state lets agents in, or all states are 0.
function isFaint({ walkable }, states) {
  if (typeof walkable === "string") return states.some(([name, value]) => name === walkable && value > 0);
  return states.length > 0 && states.every(([, value]) => value === 0);
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
    faint: isFaint(objectType, (objectType.states ?? []).map(name => [name, valueAt(entity[name], step)])),
    ready: outputs.reduce((sum, item) => sum + valueAt(entity[`inv:${item}`] ?? 0, step), 0),
  };
}

// Define the path of a shape in the unit square, without painting it.
function outline(context, shape, radius) {
  context.beginPath();
  if (shape === "circle") context.arc(0.5, 0.5, radius, 0, 2 * Math.PI);
  else for (const [x, y] of CORNERS[shape]) context.lineTo(0.5 + radius * x, 0.5 + radius * y);
  context.closePath();
}

function paintWall(context, size) {
  context.fillStyle = theme.wall;
  context.fillRect(0, 0, 1.01, 1.01);
  if (size < 10) return;
  context.fillStyle = theme.mortar;
  for (const [x, y, width, height] of SHAPES.mortar) {
    context.fillRect(x, y, width, height);
  }
}

function paintBlock(context) {
  context.fillStyle = SHAPES.block[0];
  context.fillRect(0.08, 0.08, 0.84, 0.84);
  context.strokeStyle = SHAPES.block[1];
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
    context.moveTo(0.5 + 0.36 * Math.cos(angle), 0.5 + 0.36 * Math.sin(angle));
    context.lineTo(0.5 + 0.5 * Math.cos(angle), 0.5 + 0.5 * Math.sin(angle));
  }
  context.stroke();
}

// Paint three dots in a bar at the lower edge: the object converts or cools down.
function paintBusy(context) {
  context.fillStyle = INK;
  context.fillRect(0.2, 0.76, 0.6, 0.2);
  context.fillStyle = "#fff";
  for (const i of [0, 1, 2]) context.fillRect(0.28 + 0.17 * i, 0.81, 0.1, 0.1);
}

// Paint a number or letter in a box at the right edge; `top` is its distance from the upper edge, as a fraction of the
// sprite. Sprites smaller than 18 pixels get a box without text.
function paintBadge(context, size, label, top) {
  context.fillStyle = INK;
  if (size < 18) context.fillRect(0.72, top + 0.06, 0.2, 0.2);
  else {
    context.fillRect(0.67, top, 0.32, 0.34);
    paintText(context, label, 0.83, top + 0.18, 0.29, "#fff");
  }
}
