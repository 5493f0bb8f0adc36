// The panels beside the map: selected entity, reward curve, groups and legend.
// Names come from a config and are untrusted: they are inserted as text, never as markup.

const ORIENTATIONS = ["up \u2191", "down \u2193", "left \u2190", "right \u2192"];
const NONE = "\u2013";

// A new HTML element; children are nodes or text.
function element(tag, ...children) {
  const created = document.createElement(tag);
  created.append(...children.map(child => (child instanceof Node ? child : String(child))));
  return created;
}

function formatNumber(value, digits = 3) {
  const rounded = Number(value.toFixed(digits));
  return String(rounded === 0 ? 0 : rounded);  // not -0
}

// A new canvas of 56 x 56 pixels with a picture, for legend, inventory and groups.
function icon(paint) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 56;
  canvas.setAttribute("aria-hidden", "true");
  paint(canvas.getContext("2d"));
  return canvas;
}

function spriteIcon(painter, state) {
  return icon(context => painter.paint(context, 2, 2, 52, state));
}

// The icons of an item as a list of one canvas, or of none for a name without icon.
function itemIcons(item) {
  const [base, color] = splitColor(item);
  if (!Object.hasOwn(ITEM_ICONS, base) || (base === "ore" && !color)) return [];
  return [icon(context => {
    context.translate(2, 2);
    context.scale(52, 52);
    context.lineJoin = "round";
    paintIcon(context, ITEM_ICONS[base], { color });
  })];
}

function agentName(episode, agent) {
  return episode.groups.length > 1 ? `Agent ${agent.agent_id}, ${episode.groups[agent.group].name}` : `Agent ${agent.agent_id}`;
}

function entityName(episode, entity) {
  return isAgent(entity) ? agentName(episode, entity) : episode.objectTypes.get(entity.type).name;
}

// A one-line description of an entity, shown while the pointer is over it.
function describe(episode, entity, step) {
  const held = episode.inventory(entity, step).map(([item, amount]) => `${amount} ${item}`);
  const states = [];
  if (valueAt(entity["agent:frozen"] ?? 0, step)) states.push("frozen");
  if (valueAt(entity.converting ?? 0, step)) states.push("busy");
  const names = isAgent(entity) ? [] : episode.objectTypes.get(entity.type).states ?? [];
  for (const name of names) states.push(`${name} ${valueAt(entity[name], step)}`);
  return [entityName(episode, entity), ...states, held.length ? `holds ${held.join(", ")}` : ""].filter(Boolean).join(" \u00b7 ");
}

// The properties of an entity at a step, as [label, text, id]; tests find a property by its id.
function properties(episode, entity, step) {
  const [row, col] = episode.position(entity, step);
  const rows = [["Position", `row ${row}, column ${col}`, "position"]];
  if (!isAgent(entity)) {
    const objectType = episode.objectTypes.get(entity.type);
    rows.unshift(["Object", objectType.name, "name"]);
    if (objectType.type !== "wall") {
      if (objectType.states === undefined) {
        rows.push(["State", valueAt(entity.converting, step) ? "busy" : "idle", "state"], ["Recipe", recipe(objectType), "recipe"]);
      } else rows.push(["State", objectType.states.map(name => `${name} ${valueAt(entity[name], step)}`).join(", ") || NONE, "state"]);
    }
    return rows;
  }
  const action = episode.action(entity, step);
  if (entity.policy) rows.push(["Policy", entity.policy, "policy"]);
  rows.push(["Facing", ORIENTATIONS[valueAt(entity["agent:orientation"], step)] ?? "", "facing"]);
  if (valueAt(entity["agent:frozen"], step)) rows.push(["State", "frozen", "state"]);
  if (episode.actionTypes.includes("change_color")) rows.push(["Color", valueAt(entity["agent:color"], step), "color"]);
  rows.push(
    ["Action", action ? action.words : "none, the episode has ended", "action"],
    ["Result", action ? (action.succeeded ? "\u2713 succeeded" : "\u2717 failed") : NONE, "result"],
    ["Step reward", action ? formatNumber(action.reward, 4) : NONE, "reward"],
    ["Total reward", formatNumber(entity.totalRewards[step], 4), "total-reward"],
  );
  return rows;
}

function recipe(objectType) {
  const side = items => Object.entries(items ?? {}).map(([item, amount]) => `${amount} ${item}`).join(" + ");
  const input = side(objectType.input), output = side(objectType.output) || "nothing";
  return input ? `${input} \u2192 ${output}` : `gives ${output}`;
}

function showSelection(page, episode, entity, step) {
  page.properties.replaceChildren(...properties(episode, entity, step).flatMap(([label, text, id]) => {
    const value = element("dd", text);
    value.id = `property-${id}`;
    return [element("dt", label), value];
  }));
  const held = episode.inventory(entity, step).map(([item, amount]) => {
    const count = element("span", amount);
    count.className = "count";
    return element("li", ...itemIcons(item), item, count);
  });
  page.inventory.replaceChildren(...(held.length ? held : ["nothing"]));
}

function showNoSelection(page) {
  page.properties.replaceChildren(element("dt", "Select an agent or an object on the map."));
  page.inventory.replaceChildren(NONE);
}

function showGroups(page, episode, painter, step) {
  if (!page.groups.tHead) {
    const headings = episode.groups.map((group, index) =>
      element("th", spriteIcon(painter, { group: index, orientation: 0, frozen: 0, label: "" }), group.name));
    page.groups.append(element("thead", element("tr", element("th", "Group"), ...headings)), element("tbody"));
  }
  const sums = episode.groups.map((_, index) => episode.groupSums(index, step));
  const row = (name, valueOf) => element("tr", element("th", name), ...sums.map(sum => element("td", valueOf(sum))));
  page.groups.tBodies[0].replaceChildren(
    row("Agents", sum => sum.agents),
    ...(sums.some(sum => sum.policies.length) ? [row("Policy", sum => sum.policies.join(", "))] : []),
    row("Frozen", sum => sum.frozen),
    row("Total reward", sum => formatNumber(sum.reward, 2)),
    ...episode.usedItems.map((item, index) => row(item, sum => sum.items[index])),
  );
}

// The legend: teams, then object types with their recipes, then signs. At the right, the character in the terminal.
function showLegend(page, episode, painter) {
  const count = predicate => episode.entities.filter(predicate).length;
  const entry = (picture, name, note, glyph) => {
    const item = element("li", picture, element("span", name, ...(note ? [element("small", note)] : [])));
    if (glyph) item.append(element("kbd", glyph));
    return item;
  };
  const isSingle = episode.groups.length === 1;
  const agents = episode.groups.map((group, index) => entry(
    spriteIcon(painter, { group: index, orientation: 3, frozen: 0, label: "7" }),
    `${isSingle ? "agent" : group.name} \u00d7 ${count(one => one.group === index)}`,
    index === 0 ? "number 7, facing right" : "",
    episode.glyphs[isSingle ? "agent" : `agent.${group.name}`],
  ));
  const objectTypes = [...episode.objectTypes.values()].filter(type => count(one => one.type === type.type_id));
  const objects = objectTypes.map(objectType => entry(
    spriteIcon(painter, { objectType, busy: 0, ready: 0 }),
    `${objectType.name} \u00d7 ${count(one => one.type === objectType.type_id)}`,
    objectType.states !== undefined ? objectType.type : objectType.type !== "wall" ? recipe(objectType) : objectType.swappable ? "agents can swap places with it" : "",
    episode.glyphs[objectType.name],
  ));
  const signs = [];
  const converter = objectTypes.find(type => type.type !== "wall" && type.states === undefined);
  if (converter) {
    signs.push(entry(spriteIcon(painter, { objectType: converter, busy: 1, ready: 0 }), "busy", "converts or cools down"));
    signs.push(entry(spriteIcon(painter, { objectType: converter, busy: 0, ready: 2 }), "2 items ready", "to be taken"));
  }
  if (episode.actionTypes.includes("attack")) {
    signs.push(entry(icon(context => paintAttack(context, 40, [4, 52], [34, 21])), "attack that hits"));
    signs.push(entry(spriteIcon(painter, { group: 0, orientation: 3, frozen: 1, label: "7" }), "frozen agent"));
  }
  page.legend.replaceChildren(...agents, ...objects, ...signs);
}

const CURVE_MARGIN = 48;  // pixels left of the curve, for the axis labels

// Plot total reward against step: mean of all agents (dashed) and, unless null, `agent` (solid); mark the current step.
function drawCurve(canvas, episode, agent, step) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const lines = [[episode.meanTotalRewards, theme.muted, [5, 4]], ...(agent ? [[agent.totalRewards, theme.accent, []]] : [])];
  let low = 0, high = 0;
  for (const [rewards] of lines) for (const reward of rewards) [low, high] = [Math.min(low, reward), Math.max(high, reward)];
  if (low === high) high = low + 1;
  const x = index => CURVE_MARGIN + (index / episode.steps) * (width - CURVE_MARGIN - 2);
  const y = reward => height - 4 - ((reward - low) / (high - low)) * (height - 8);
  const stroke = (color, dash, path) => {
    context.strokeStyle = color;
    context.setLineDash(dash);
    context.beginPath();
    path();
    context.stroke();
  };
  stroke(theme.line, [], () => { context.moveTo(CURVE_MARGIN, y(0)); context.lineTo(width, y(0)); });
  context.lineWidth = 2;
  for (const [rewards, color, dash] of lines) {
    stroke(color, dash, () => rewards.forEach((reward, index) => context.lineTo(x(index), y(reward))));
  }
  stroke(theme.ink, [], () => { context.moveTo(x(step), 0); context.lineTo(x(step), height); });
  context.fillStyle = theme.muted;
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillText(formatNumber(high), CURVE_MARGIN - 5, 12);
  context.fillText(formatNumber(low), CURVE_MARGIN - 5, height - 3);
}
