// Icons of object types and items: paths on a grid of 24 by 24, drawn by name. Shapes tell them apart without color.

const INK = "#14181d";
// Colors that names end with, each with a shape for those who do not see the color.
const GEMS = { red: ["#f0574a", "triangle"], green: ["#2fb573", "circle"], blue: ["#4a9df0", "square"] };

const HEART = "M12 13.5 C4.5 8.8 5 2.5 9 2.5 C10.8 2.5 12 3.7 12 5 C12 3.7 13.2 2.5 15 2.5 C19 2.5 19.5 8.8 12 13.5 Z";
const BOLT = "M13.5 5.5 L6.5 13.5 H11 L9.5 20 L17 11.5 H12.5 Z";
const BATTERY = "M5 6 H9 V3 H15 V6 H19 V21.5 H5 Z";
const SHIELD = "M12 2 L20 5 V11 C20 16.5 16.5 20 12 22 C7.5 20 4 16.5 4 11 V5 Z";
const LASER = [
  ["#f0574a", "M15 9.2 H23 V11.2 H15 Z"],
  ["#8fa3b5", "M2 6.5 H13 L16 8.5 V12 L13 13.5 H10 L8.5 20.5 H3.5 L5 13.5 H2 Z"],
];
const GEAR = "M10 1.5 H14 L14.7 4.4 L17 5.4 L19.6 3.9 L21.6 6.7 L19.8 8.9 L20.2 11 L22.8 12.4 L21.7 16 L18.8 16 L17.3 18"
  + " L17.9 21 L14.6 22.5 L12.8 20.2 L10.4 20.2 L8.4 22.4 L5.2 20.7 L6 17.8 L4.7 16 L1.8 15.8 L1 12.2 L3.7 11 L4.2 8.8"
  + " L2.5 6.4 L4.6 3.7 L7.3 5.2 L9.3 4.3 Z";

// For each icon: its layers [color, path], and `mark`, the place (x, y, radius) of the gem or letter of a variant. The
// color "tint" is replaced by the color of the object type.
const OBJECT_ICONS = {
  mine: {
    layers: [["#8f857b", "M1.5 21.5 L4 12.5 L8 9.5 L10.5 3.5 L16 4.5 L19.5 11.5 L22.5 21.5 Z"], ["#a99f95", "M10.5 3.5 L16 4.5 L13 8 Z"]],
    mark: [12, 14.8, 5.2],
  },
  generator: { layers: [["#c3ced9", BATTERY], ["#ffd23f", BOLT]], mark: [17.5, 18.5, 4.6] },
  altar: { layers: [["#9aa5b1", "M3 21.5 V18 H6 L8 13 H16 L18 18 H21 V21.5 Z"], ["#f25c7a", HEART]] },
  armory: { layers: [["#5d8fc4", SHIELD], ["#a9c8e8", "M12 4.6 V19.3 C9 17.7 6.5 15 6.5 11 V6.7 Z"]] },
  lasery: { layers: LASER },
  lab: {
    layers: [
      ["#dfe8f0", "M9 2 H15 V4.5 H14 V9.5 L20.5 19 C21.2 20.5 20.3 22 18.8 22 H5.2 C3.7 22 2.8 20.5 3.5 19 L10 9.5 V4.5 H9 Z"],
      ["#a06cd5", "M7.4 15 H16.6 L19.2 19.2 C19.6 20.2 19 20.8 18.2 20.8 H5.8 C5 20.8 4.4 20.2 4.8 19.2 Z"],
    ],
  },
  factory: {
    layers: [
      ["#b0653f", "M2 21.5 V10.5 L8 6.5 V10.5 L14 6.5 V10.5 H16.5 V2.5 H21 V21.5 Z"],
      ["#ffd99a", "M4.5 14 H8 V18 H4.5 Z M10 14 H13.5 V18 H10 Z M15.5 14 H19 V18 H15.5 Z"],
    ],
  },
  temple: {
    layers: [["#e3d9bd", "M12 1.5 L22.5 8 V9 H1.5 V8 Z M2 19 H22 V22 H2 Z M4 9.5 H7.5 V19 H4 Z M10.2 9.5 H13.8 V19 H10.2 Z M16.5 9.5 H20 V19 H16.5 Z"]],
  },
};

// Icons of types with other names, by their type; a letter in the middle tells them apart.
const TYPE_ICONS = {
  mine: { layers: [["tint", OBJECT_ICONS.mine.layers[0][1]]], mark: [12, 14, 6] },
  generator: { layers: [["tint", BATTERY]], mark: [12, 13.5, 6] },
  converter: { layers: [["tint", GEAR]], mark: [12, 12.3, 6] },
};

const ITEM_ICONS = {
  ore: { layers: [], mark: [12, 12, 9] },
  battery: { layers: [["#c3ced9", BATTERY]], mark: [12, 13.5, 5.5] },
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
  return [TYPE_ICONS[objectType.type], { letter }];
}

// Paint an icon into the unit square.
function paintIcon(context, icon, { color, letter, tint }) {
  context.save();
  context.scale(1 / 24, 1 / 24);
  const layers = icon.layers.map(([fill, path]) => [fill === "tint" ? tint : fill, new Path2D(path)]);
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
