// Icons of object types and items, drawn by name: paths on a grid of 24 by 24. Shapes tell them apart without color.
// SHAPES is the content of shapes.json, from which map_sprites.py draws as well.

const INK = SHAPES.ink;
// Colors that names end with, each with a shape for those who do not see the color.
const GEMS = SHAPES.gems;

// For each icon: its layers [color, path or name of a path], and `mark`, the place (x, y, radius) of the gem or letter of
// a variant. The color "tint" is replaced by the color of the object type.
const OBJECT_ICONS = SHAPES.objects;

// Icons of types with other names, by their type; a letter in the middle tells them apart.
const TYPE_ICONS = SHAPES.types;

const ITEM_ICONS = {
  ore: { layers: [], mark: [12, 12, 9] },
  battery: { layers: [["#c3ced9", "battery"]], mark: [12, 13.5, 5.5] },
  heart: { layers: [["#f25c7a", "M12 22 C1 14.5 2 4 8 4 C10.5 4 12 6 12 7.8 C12 6 13.5 4 16 4 C22 4 23 14.5 12 22 Z"]] },
  armor: OBJECT_ICONS.armory,
  laser: OBJECT_ICONS.lasery,
  blueprint: { layers: [["#4a86d8", "M3 3 H17 L21 7 V21.5 H3 Z"], ["#e8f1ff", "M6 8 H14 V9.5 H6 Z M6 12 H18 V13.5 H6 Z M6 16 H18 V17.5 H6 Z"]] },
};

// "mine_red" is [mine, red]; a name that ends with no color is [name, undefined].
function splitColor(name) {
  const end = name.lastIndexOf("_"), color = name.slice(end + 1);
  return end > 0 && Object.hasOwn(GEMS, color) ? [name.slice(0, end), color] : [name, undefined];
}

// The icon of an object type, and the mark on it: a gem for a color, a letter for a type without an icon of its own.
function objectIcon(objectType, letter) {
  const [base, color] = splitColor(objectType.name);
  if (Object.hasOwn(OBJECT_ICONS, base)) return [OBJECT_ICONS[base], { color }];
  return [TYPE_ICONS[objectType.type] ?? TYPE_ICONS.registered, { letter }];
}

// Paint an icon into the unit square.
function paintIcon(context, icon, { color, letter, tint }) {
  context.save();
  context.scale(1 / 24, 1 / 24);
  const layers = icon.layers.map(([fill, path]) => [fill === "tint" ? tint : fill, new Path2D(SHAPES.paths[path] ?? path)]);
  context.strokeStyle = INK;
  context.lineWidth = 1.8;
  for (const [, path] of layers.slice(0, 1)) context.stroke(path);
  context.lineWidth = 1;
  for (const [, path] of layers.slice(1)) context.stroke(path);
  for (const [fill, path] of layers) {
    context.fillStyle = fill;
    context.fill(path);
  }
  if (icon.mark && color) paintGem(context, ...icon.mark, color);
  if (icon.mark && letter) paintText(context, letter, icon.mark[0], icon.mark[1], icon.mark[2] * 1.9, INK);
  context.restore();
}

function paintGem(context, x, y, radius, color) {
  const [fill, shape] = GEMS[color];
  context.beginPath();
  if (shape === "circle") context.arc(x, y, radius * 0.85, 0, 2 * Math.PI);
  else if (shape === "square") context.rect(x - radius * 0.75, y - radius * 0.75, radius * 1.5, radius * 1.5);
  else {
    context.moveTo(x, y - radius);
    context.lineTo(x + radius * 0.98, y + radius * 0.75);
    context.lineTo(x - radius * 0.98, y + radius * 0.75);
  }
  context.closePath();
  context.lineWidth = 1.8;
  context.strokeStyle = INK;
  context.stroke();
  context.fillStyle = fill;
  context.fill();
}

// A text centered at (x, y), with letters of this height.
function paintText(context, text, x, y, height, color) {
  context.fillStyle = color;
  // drawn at 100 times the size and scaled down, because browsers do not draw fonts smaller than a pixel
  context.save();
  context.translate(x, y);
  context.scale(0.01, 0.01);
  context.font = `bold ${height * 100}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, 0, 0);
  context.restore();
}
