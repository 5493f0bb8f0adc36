// What stands beside the map. Names come from a config, so they only ever become text, never markup.

const FACING_WORDS = ["up \u2191", "down \u2193", "left \u2190", "right \u2192"];

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children.map(child => (child instanceof Node ? child : String(child))));
  return made;
}

function fill(parent, children) {
  parent.replaceChildren(...children);
}

function number(value, digits = 3) {
  const rounded = Number(value.toFixed(digits));
  return String(rounded === 0 ? 0 : rounded);
}

// A picture beside a name.
function picture(painter, state) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 48;
  painter.paint(canvas.getContext("2d"), 2, 2, 44, state);
  return canvas;
}

function strikePicture() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 48;
  strike(canvas.getContext("2d"), 26, [4, 40], [34, 14]);
  return canvas;
}

function agentName(episode, agent) {
  return episode.groups.length > 1 ? `Agent ${agent.agent_id}, ${episode.groups[agent.group].name}` : `Agent ${agent.agent_id}`;
}

function thingName(episode, thing) {
  return isAgent(thing) ? agentName(episode, thing) : episode.kinds.get(thing.type).name;
}

function describe(episode, thing, step) {
  const held = episode.inventory(thing, step).map(([item, amount]) => `${amount} ${item}`);
  const states = [];
  if (valueAt(thing["agent:frozen"] ?? 0, step)) states.push("frozen");
  if (valueAt(thing.converting ?? 0, step)) states.push("busy");
  return [thingName(episode, thing), ...states, held.length ? `holds ${held.join(", ")}` : ""].filter(Boolean).join(" \u00b7 ");
}

// The facts about a thing at a step, as [term, text, id] rows.
function facts(episode, thing, step) {
  const [row, col] = episode.place(thing, step);
  const rows = [["Place", `row ${row}, column ${col}`, "place"]];
  if (!isAgent(thing)) {
    const kind = episode.kinds.get(thing.type);
    rows.unshift(["Thing", kind.name, "name"]);
    if (kind.type !== "wall") {
      rows.push(["State", valueAt(thing.converting, step) ? "busy" : "idle", "state"], ["Recipe", recipe(kind), "recipe"]);
    }
    return rows;
  }
  const action = episode.action(thing, step);
  rows.push(
    ["Faces", FACING_WORDS[valueAt(thing["agent:orientation"], step)] ?? "", "facing"],
    ["State", valueAt(thing["agent:frozen"], step) ? "frozen" : "free", "state"],
    ["Color", valueAt(thing["agent:color"], step), "color"],
    ["Reward so far", number(thing.totals[step], 4), "total"],
    ["Does now", action ? `${action.name} ${action.argument}` : "nothing more", "action"],
    ["Outcome", action ? (action.succeeded ? "\u2713 succeeds" : "\u2717 fails") : "\u2013", "outcome"],
    ["Reward for it", action ? number(action.reward, 4) : "\u2013", "reward"],
  );
  return rows;
}

function recipe(kind) {
  const side = items => Object.entries(items ?? {}).map(([item, count]) => `${count} ${item}`).join(" + ") || "nothing";
  return `${side(kind.input)} \u2192 ${side(kind.output)}`;
}

function showSelection(page, episode, thing, step) {
  fill(page.facts, facts(episode, thing, step).flatMap(([term, value, id]) => {
    const described = element("dd", value);
    described.id = `fact-${id}`;
    return [element("dt", term), described];
  }));
  const held = episode.inventory(thing, step).map(([item, amount]) => {
    const count = element("span", amount);
    count.className = "count";
    return element("li", item, count);
  });
  fill(page.items, held.length ? held : ["nothing"]);
}

function showNothingSelected(page) {
  fill(page.facts, [element("dt", "Select an agent or a thing on the map.")]);
  fill(page.items, ["\u2013"]);
}

function showGroups(page, episode, painter, step) {
  if (!page.groups.tHead) {
    const heads = episode.groups.map((group, index) =>
      element("th", picture(painter, { group: index, orientation: 0, frozen: 0, label: "" }), group.name));
    page.groups.append(element("thead", element("tr", element("th", "Now"), ...heads)), element("tbody"));
  }
  const totals = episode.groups.map((_, index) => episode.groupTotals(index, step));
  const row = (name, of) => element("tr", element("th", name), ...totals.map(total => element("td", of(total))));
  fill(page.groups.tBodies[0], [
    row("Agents", total => total.agents),
    row("Frozen", total => total.frozen),
    row("Reward", total => number(total.reward, 2)),
    ...episode.usedItems.map((item, index) => row(item, total => total.items[index])),
  ]);
}

function showLegend(page, episode, painter) {
  const counts = new Map();
  for (const thing of episode.things) counts.set(thing.type, (counts.get(thing.type) ?? 0) + 1);
  const kinds = [...episode.kinds.values()].filter(kind => counts.has(kind.type_id)).map(kind => {
    const what = kind.type === "wall" ? (kind.swappable ? "changes places with an agent" : "") : recipe(kind);
    return element("li", picture(painter, { kind, busy: 0, waiting: 0 }), `${kind.name} \u00d7 ${counts.get(kind.type_id)}`, element("small", what));
  });
  const agent = { group: 0, orientation: 3, frozen: 0, label: "7" };
  const busy = [...episode.kinds.values()].find(kind => kind.type !== "wall" && counts.has(kind.type_id));
  fill(page.legend, [
    element("li", picture(painter, agent), "agent 7, faces right"),
    element("li", picture(painter, { ...agent, frozen: 1 }), "frozen agent"),
    ...kinds,
    ...(episode.actionTypes.includes("attack") ? [element("li", strikePicture(), "an attack that hits")] : []),
    ...(busy ? [element("li", picture(painter, { kind: busy, busy: 1, waiting: 2 }), "busy (dots), two products wait")] : []),
  ]);
}

const AXIS = 48;  // pixels left of the curve, for its numbers

// Reward so far over steps: the agent's as a line, the mean of all agents dashed.
function drawCurve(canvas, episode, agent, step) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const lines = agent ? [[episode.meanTotals, "#9fb0c0", [5, 4]], [agent.totals, "#ffd84d", []]] : [[episode.meanTotals, "#9fb0c0", [5, 4]]];
  let low = 0, high = 0;
  for (const [totals] of lines) for (const total of totals) [low, high] = [Math.min(low, total), Math.max(high, total)];
  if (low === high) high = low + 1;
  const x = at => AXIS + (at / episode.steps) * (width - AXIS - 2), y = total => height - 4 - ((total - low) / (high - low)) * (height - 8);
  const stroke = (color, dash, path) => {
    context.strokeStyle = color;
    context.setLineDash(dash);
    context.beginPath();
    path();
    context.stroke();
  };
  stroke("#3a4450", [], () => { context.moveTo(AXIS, y(0)); context.lineTo(width, y(0)); });
  context.lineWidth = 2;
  for (const [totals, color, dash] of lines) {
    stroke(color, dash, () => totals.forEach((total, at) => context.lineTo(x(at), y(total))));
  }
  stroke("#fff", [], () => { context.moveTo(x(step), 0); context.lineTo(x(step), height); });
  context.fillStyle = "#b4bfca";
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillText(number(high), AXIS - 5, 12);
  context.fillText(number(low), AXIS - 5, height - 3);
}
