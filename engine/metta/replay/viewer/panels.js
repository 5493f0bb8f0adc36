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

// A new canvas of 48 x 48 pixels with a sprite, for the legend and the table of groups.
function icon(paint) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 48;
  paint(canvas.getContext("2d"));
  return canvas;
}

function spriteIcon(painter, state) {
  return icon(context => painter.paint(context, 2, 2, 44, state));
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
      rows.push(["State", valueAt(entity.converting, step) ? "busy" : "idle", "state"], ["Recipe", recipe(objectType), "recipe"]);
    }
    return rows;
  }
  const action = episode.action(entity, step);
  rows.push(
    ["Orientation", ORIENTATIONS[valueAt(entity["agent:orientation"], step)] ?? "", "orientation"],
    ["State", valueAt(entity["agent:frozen"], step) ? "frozen" : "free", "state"],
    ["Color", valueAt(entity["agent:color"], step), "color"],
    ["Total reward", formatNumber(entity.totalRewards[step], 4), "total-reward"],
    ["Action", action ? `${action.name} ${action.argument}` : "none, the episode has ended", "action"],
    ["Outcome", action ? (action.succeeded ? "\u2713 success" : "\u2717 failed") : NONE, "outcome"],
    ["Step reward", action ? formatNumber(action.reward, 4) : NONE, "reward"],
  );
  return rows;
}

function recipe(objectType) {
  const side = items => Object.entries(items ?? {}).map(([item, amount]) => `${amount} ${item}`).join(" + ") || "nothing";
  return `${side(objectType.input)} \u2192 ${side(objectType.output)}`;
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
    return element("li", item, count);
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
    row("Frozen", sum => sum.frozen),
    row("Reward", sum => formatNumber(sum.reward, 2)),
    ...episode.usedItems.map((item, index) => row(item, sum => sum.items[index])),
  );
}

function showLegend(page, episode, painter) {
  const counts = new Map();
  for (const { type } of episode.entities) counts.set(type, (counts.get(type) ?? 0) + 1);
  const objectTypes = [...episode.objectTypes.values()].filter(type => counts.has(type.type_id));
  const converter = objectTypes.find(type => type.type !== "wall");
  const agent = { group: 0, orientation: 3, frozen: 0, label: "7" };
  page.legend.replaceChildren(
    element("li", spriteIcon(painter, agent), "agent 7, facing right"),
    element("li", spriteIcon(painter, { ...agent, frozen: 1 }), "frozen agent"),
    ...objectTypes.map(objectType => {
      const note = objectType.type !== "wall" ? recipe(objectType) : objectType.swappable ? "agents can swap places with it" : "";
      const sprite = spriteIcon(painter, { objectType, busy: 0, ready: 0 });
      return element("li", sprite, `${objectType.name} \u00d7 ${counts.get(objectType.type_id)}`, element("small", note));
    }),
    ...(episode.actionTypes.includes("attack")
      ? [element("li", icon(context => paintAttack(context, 26, [4, 40], [34, 14])), "successful attack")] : []),
    ...(converter
      ? [element("li", spriteIcon(painter, { objectType: converter, busy: 1, ready: 2 }), "busy (dots), 2 items to collect")] : []),
  );
}

const CURVE_MARGIN = 48;  // pixels left of the curve, for the axis labels

// Plot total reward against step: mean of all agents (dashed) and, unless null, `agent` (solid); mark the current step.
function drawCurve(canvas, episode, agent, step) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const lines = [[episode.meanTotalRewards, "#9fb0c0", [5, 4]], ...(agent ? [[agent.totalRewards, "#ffd84d", []]] : [])];
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
  stroke("#3a4450", [], () => { context.moveTo(CURVE_MARGIN, y(0)); context.lineTo(width, y(0)); });
  context.lineWidth = 2;
  for (const [rewards, color, dash] of lines) {
    stroke(color, dash, () => rewards.forEach((reward, index) => context.lineTo(x(index), y(reward))));
  }
  stroke("#fff", [], () => { context.moveTo(x(step), 0); context.lineTo(x(step), height); });
  context.fillStyle = "#b4bfca";
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillText(formatNumber(high), CURVE_MARGIN - 5, 12);
  context.fillText(formatNumber(low), CURVE_MARGIN - 5, height - 3);
}
