// The recorded episode: decodes the embedded data and returns the state of each entity (agent or object) at each step.
// A property is either one constant value or a list of changes [[step, value], ...], the first at step 0.

async function readEpisode(element) {
  const bytes = Uint8Array.from(atob(element.textContent), character => character.charCodeAt(0));
  const json = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));  // zlib format
  return new Episode(await new Response(json).json());
}

// (row, col) offsets of the cell ahead and of the cell to the left, by orientation: up, down, left, right.
const AHEAD = [[-1, 0], [1, 0], [0, -1], [0, 1]];
const LEFT = [[0, -1], [0, 1], [1, 0], [-1, 0]];

// The value of a property at a step, by binary search.
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
    this.actionWords = content.labels.actions;  // by action id and argument
    this.glyphs = content.labels.cells;  // the character of each kind of cell in the terminal
    this.actionTypes = config.actions.flatMap(({ type }) => (type === "attack" ? [type, "attack_nearest"] : [type]));
    this.items = content.inventory_items;
    this.observationShape = [config.game.observation_height, config.game.observation_width];
    this.groups = content.groups;
    this.objectTypes = new Map(config.objects.map(type => [type.type_id, type]));
    this.entities = content.grid_objects;
    this.agents = this.entities.filter(isAgent).sort((a, b) => a.agent_id - b.agent_id);
    for (const agent of this.agents) {
      agent.group = this.groups.findIndex(group => group.id === agent["agent:group"]);
      agent.policy = content.policies[agent.agent_id];  // empty for the policy of no team
      agent.totalRewards = this.totalRewards(agent);
    }
    this.meanTotalRewards = Float32Array.from({ length: this.steps + 1 }, (_, step) =>
      this.agents.reduce((sum, agent) => sum + agent.totalRewards[step], 0) / this.agents.length);
    this.usedItems = this.items.filter(item => this.agents.some(agent => `inv:${item}` in agent));
    this.movable = [];
    this.stationary = new Map();  // by cell index, row * cols + col
    for (const entity of this.entities) {
      if (Array.isArray(entity.r) || Array.isArray(entity.c) || isAgent(entity)) this.movable.push(entity);
      else this.stationary.set(entity.r * this.cols + entity.c, entity);
    }
  }

  // The agent's total reward before each step and after the last, [steps + 1]; summed in float32 as in the simulator.
  totalRewards(agent) {
    const totals = new Float32Array(this.steps + 1);
    for (let step = 0; step < this.steps; step++) {
      totals[step + 1] = totals[step] + Math.fround(valueAt(agent.reward, step));
    }
    return totals;
  }

  position(entity, step) {
    return [valueAt(entity.r, step), valueAt(entity.c, step)];
  }

  entityAt(row, col, step) {
    return this.movable.find(entity => valueAt(entity.r, step) === row && valueAt(entity.c, step) === col)
      || this.stationary.get(row * this.cols + col);
  }

  // The inventory of an entity, as [item, amount] of each item with a nonzero amount.
  inventory(entity, step) {
    return this.items.map(item => [item, valueAt(entity[`inv:${item}`] ?? 0, step)]).filter(([, amount]) => amount > 0);
  }

  // An agent's action at a step; null after the last step.
  action(agent, step) {
    if (step >= this.steps) return null;
    const [id, argument] = valueAt(agent.action, step);
    return {
      type: this.actionTypes[id],
      argument,
      words: this.actionWords[id]?.[argument] ?? `${this.actionNames[id] ?? `action ${id}`} ${argument}`,
      succeeded: valueAt(agent.action_success, step),
      reward: valueAt(agent.reward, step),
    };
  }

  // The agent hit by this agent's attack at a step, or undefined. Attacks precede all moves and rotations of the step.
  attackTarget(agent, step) {
    const action = this.action(agent, step);
    if (!action?.succeeded || !action.type.startsWith("attack")) return undefined;
    const orientation = valueAt(agent["agent:orientation"], step), [row, col] = this.position(agent, step);
    const [ahead, left] = [AHEAD[orientation], LEFT[orientation]];
    const agentAt = (distance, side) => {
      // as in the simulator, negative coordinates are clamped to 0
      const [targetRow, targetCol] = [0, 1].map(axis =>
        Math.max(0, [row, col][axis] + ahead[axis] * distance + left[axis] * side));
      return this.agents.find(other => {
        const [otherRow, otherCol] = this.position(other, step);
        return otherRow === targetRow && otherCol === targetCol;
      });
    };
    const candidates = action.type === "attack"
      ? [[1 + Math.floor((action.argument - 1) / 3), 1 - ((action.argument - 1) % 3)]]
      : [1, 2, 3].flatMap(distance => [0, 1, -1].map(side => [distance, side]));
    return candidates.map(([distance, side]) => agentAt(distance, side)).find(Boolean);
  }

  // Sums over the agents of a group: number of agents, total reward, number of frozen agents, amount of each used item.
  groupSums(group, step) {
    const members = this.agents.filter(agent => agent.group === group);
    const sum = valueOf => members.reduce((total, agent) => total + valueOf(agent), 0);
    return {
      agents: members.length,
      policies: [...new Set(members.map(agent => agent.policy))].filter(Boolean),
      reward: sum(agent => agent.totalRewards[step]),
      frozen: sum(agent => valueAt(agent["agent:frozen"], step)),
      items: this.usedItems.map(item => sum(agent => valueAt(agent[`inv:${item}`] ?? 0, step))),
    };
  }
}

function isAgent(entity) {
  return entity.agent_id !== undefined;
}
