// The episode: what was where at which step. A property is one value or a list of changes [[step, value], ...].

function readEpisode(element) {
  const text = atob(element.textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  return new Episode(JSON.parse(new TextDecoder().decode(inflate(packed, Number(element.dataset.size)))));
}

// (row, col) steps by orientation: up, down, left, right.
const FACING = [[-1, 0], [1, 0], [0, -1], [0, 1]];
const LEFT_OF = [[0, -1], [0, 1], [1, 0], [-1, 0]];

function valueAt(property, step) {
  if (!Array.isArray(property)) return property;
  let low = 0, high = property.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (property[middle][0] <= step) low = middle;
    else high = middle - 1;
  }
  return property[low][1];
}

class Episode {
  constructor(content) {
    const { config } = content;
    this.title = content.title;
    this.seed = content.seed;
    this.steps = content.max_steps;
    [this.cols, this.rows] = content.map_size;
    this.actionNames = content.action_names;
    this.actionTypes = config.actions.flatMap(({ type }) => (type === "attack" ? [type, "attack_nearest"] : [type]));
    this.items = content.inventory_items;
    this.sight = [config.game.observation_height, config.game.observation_width];
    this.groups = content.groups;
    this.kinds = new Map(config.objects.map(kind => [kind.type_id, kind]));
    this.things = content.grid_objects;
    this.agents = this.things.filter(isAgent).sort((a, b) => a.agent_id - b.agent_id);
    for (const agent of this.agents) {
      agent.group = this.groups.findIndex(group => group.id === agent["agent:group"]);
      agent.totals = this.runningTotals(agent);
    }
    this.meanTotals = Float32Array.from({ length: this.steps + 1 }, (_, step) =>
      this.agents.reduce((sum, agent) => sum + agent.totals[step], 0) / this.agents.length);
    this.usedItems = this.items.filter(item => this.agents.some(agent => `inv:${item}` in agent));
    this.standing = new Map();
    this.moving = [];
    for (const thing of this.things) {
      if (Array.isArray(thing.r) || Array.isArray(thing.c) || isAgent(thing)) this.moving.push(thing);
      else this.standing.set(thing.r * this.cols + thing.c, thing);
    }
  }

  // Reward before each step, and after the last; added up in float32, as the simulator does.
  runningTotals(agent) {
    const totals = new Float32Array(this.steps + 1);
    for (let step = 0; step < this.steps; step++) {
      totals[step + 1] = totals[step] + Math.fround(valueAt(agent.reward, step));
    }
    return totals;
  }

  place(thing, step) {
    return [valueAt(thing.r, step), valueAt(thing.c, step)];
  }

  thingAt(row, col, step) {
    return this.moving.find(thing => valueAt(thing.r, step) === row && valueAt(thing.c, step) === col)
      || this.standing.get(row * this.cols + col);
  }

  // [item, amount] of what a thing holds.
  inventory(thing, step) {
    return this.items.map(item => [item, valueAt(thing[`inv:${item}`] ?? 0, step)]).filter(([, amount]) => amount > 0);
  }

  // What an agent does in a step; null after the last one.
  action(agent, step) {
    if (step >= this.steps) return null;
    const [id, argument] = valueAt(agent.action, step);
    return {
      type: this.actionTypes[id],
      name: this.actionNames[id] ?? `action ${id}`,
      argument,
      succeeded: valueAt(agent.action_success, step),
      reward: valueAt(agent.reward, step),
    };
  }

  // The agent that an attack of this step hits, if any: attacks come before anybody moves or turns.
  victim(agent, step) {
    const action = this.action(agent, step);
    if (!action?.succeeded || !action.type.startsWith("attack")) return undefined;
    const orientation = valueAt(agent["agent:orientation"], step), [row, col] = this.place(agent, step);
    const [ahead, left] = [FACING[orientation], LEFT_OF[orientation]];
    const at = (distance, side) => {
      // above and left of the map, a look lands on the first row or column
      const [wantedRow, wantedCol] = [0, 1].map(axis =>
        Math.max(0, [row, col][axis] + ahead[axis] * distance + left[axis] * side));
      return this.agents.find(other => {
        const [otherRow, otherCol] = this.place(other, step);
        return otherRow === wantedRow && otherCol === wantedCol;
      });
    };
    const where = action.type === "attack"
      ? [[1 + Math.floor((action.argument - 1) / 3), 1 - ((action.argument - 1) % 3)]]
      : [1, 2, 3].flatMap(distance => [0, 1, -1].map(side => [distance, side]));
    return where.map(([distance, side]) => at(distance, side)).find(Boolean);
  }

  // Over the agents of a group: how many, their reward so far, and how much of each used item they hold.
  groupTotals(group, step) {
    const members = this.agents.filter(agent => agent.group === group);
    const sum = of => members.reduce((total, agent) => total + of(agent), 0);
    return {
      agents: members.length,
      reward: sum(agent => agent.totals[step]),
      frozen: sum(agent => valueAt(agent["agent:frozen"], step)),
      items: this.usedItems.map(item => sum(agent => valueAt(agent[`inv:${item}`] ?? 0, step))),
    };
  }
}

function isAgent(thing) {
  return thing.agent_id !== undefined;
}
