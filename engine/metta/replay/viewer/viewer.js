// The viewer: keeps the current step and the selected entity, handles all controls, and starts the page.

class Viewer {
  constructor(page, episode) {
    Object.assign(this, { page, episode, step: 0, selected: null, isPlaying: false, isDrawScheduled: false });
    this.startStep = this.startTime = 0;  // step and time (milliseconds) at which playback started
    readTheme();
    this.painter = new SpritePainter(episode);
    this.map = new MapView(page.map, episode, this.painter);
    this.showEpisode();
    this.connectButtons();
    this.connectKeys();
    this.connectInputs();
    this.connectPointers();
    this.map.resize();
    this.select(episode.agents[0]);
    this.applyUrlFragment();
    this.draw();
  }

  // -- drawing ----------------------------------------------------------------------------------------------------

  scheduleDraw() {
    if (!this.isDrawScheduled) requestAnimationFrame(() => this.draw());
    this.isDrawScheduled = true;
  }

  draw() {
    const { page, episode, map, painter, selected, step } = this;
    const agent = selected && isAgent(selected) ? selected : null;
    this.isDrawScheduled = false;
    if (page.follow.checked && selected) map.center(...episode.position(selected, step));
    map.draw(step, selected, page.observationWindow.checked);
    page.slider.value = step;
    page.slider.setAttribute("aria-valuetext", `step ${step} of ${episode.steps}`);
    page.time.textContent = `Step ${step} of ${episode.steps}`;
    page.play.textContent = this.isPlaying ? "Pause" : step === episode.steps ? "Again" : "Play";
    if (selected) showSelection(page, episode, selected, step);
    else showNoSelection(page);
    page.agents.value = agent ? agent.agent_id : "";
    drawCurve(page.curve, episode, agent, step);
    page.curveKey.textContent = agent ? "solid: this agent \u00b7 dashed: mean of all agents" : "dashed: mean of all agents";
    showGroups(page, episode, painter, step);
  }

  // Show the title, the summary, the list of agents and the legend, which do not depend on the step.
  showEpisode() {
    const { page, episode } = this;
    const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
    page.title.textContent = episode.title;
    page.summary.textContent = [
      count(episode.agents.length, "agent"),
      `${episode.rows} \u00d7 ${episode.cols} cells`,
      count(episode.steps, "step"),
      `seed ${episode.seed}`,
    ].join(" \u00b7 ");
    document.documentElement.style.setProperty("--map-aspect", episode.rows / episode.cols);
    page.slider.max = episode.steps;
    page.agents.replaceChildren(...episode.agents.map(agent => {
      const option = element("option", agentName(episode, agent));
      option.value = agent.agent_id;
      return option;
    }));
    showLegend(page, episode, this.painter);
  }

  // -- state changes ----------------------------------------------------------------------------------------------

  goTo(step) {
    this.step = Math.min(this.episode.steps, Math.max(0, Math.round(step) || 0));
    this.restartClock();
    this.scheduleDraw();
  }

  select(entity) {
    this.selected = entity ?? null;
    this.scheduleDraw();
  }

  selectNextAgent(by) {
    const { agents } = this.episode;
    const index = this.selected && isAgent(this.selected) ? this.selected.agent_id + by : by > 0 ? 0 : -1;
    this.select(agents[(index + agents.length) % agents.length]);
  }

  setPlaying(isPlaying) {
    if (isPlaying && this.step === this.episode.steps) this.goTo(0);
    this.isPlaying = isPlaying;
    this.restartClock();
    if (isPlaying) requestAnimationFrame(now => this.advance(now));
    this.scheduleDraw();
  }

  restartClock() {
    [this.startStep, this.startTime] = [this.step, performance.now()];
  }

  // Show the step that playback has reached at time `now`, in milliseconds.
  advance(now) {
    if (!this.isPlaying) return;
    const elapsed = Math.max(0, now - this.startTime) / 1000;
    const reached = Math.min(this.episode.steps, this.startStep + Math.floor(elapsed * Number(this.page.speed.value)));
    if (reached !== this.step) {
      this.step = reached;
      this.scheduleDraw();
    }
    if (this.step === this.episode.steps) this.setPlaying(false);
    else requestAnimationFrame(later => this.advance(later));
  }

  changeSpeed(by) {
    const { speed } = this.page;
    speed.selectedIndex = Math.min(speed.length - 1, Math.max(0, speed.selectedIndex + by));
    this.restartClock();
  }

  toggle(checkbox) {
    checkbox.checked = !checkbox.checked;
    this.scheduleDraw();
  }

  zoom(factor, x, y) {
    this.map.zoom(factor, x, y);
    this.scheduleDraw();
  }

  fit() {
    this.page.follow.checked = false;
    this.map.fit();
    this.scheduleDraw();
  }

  changeTheme() {
    readTheme();
    showLegend(this.page, this.episode, this.painter);
    this.page.groups.replaceChildren();
    this.draw();
  }

  // Go to the step and select the agent given in the fragment of the URL, such as `#step=120&agent=5`.
  applyUrlFragment() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    if (parameters.has("step")) this.goTo(Number(parameters.get("step")));
    if (parameters.has("agent")) this.select(this.episode.agents[Number(parameters.get("agent"))]);
  }

  // -- controls ---------------------------------------------------------------------------------------------------

  connectButtons() {
    const actions = {
      play: () => this.setPlaying(!this.isPlaying),
      first: () => this.goTo(0),
      back: () => this.goTo(this.step - 1),
      forward: () => this.goTo(this.step + 1),
      last: () => this.goTo(this.episode.steps),
      previousAgent: () => this.selectNextAgent(-1),
      nextAgent: () => this.selectNextAgent(1),
      zoomIn: () => this.zoom(1.4),
      zoomOut: () => this.zoom(1 / 1.4),
      fit: () => this.fit(),
    };
    for (const [id, action] of Object.entries(actions)) this.page[id].addEventListener("click", action);
  }

  connectKeys() {
    const actions = {
      " ": () => this.setPlaying(!this.isPlaying),
      ArrowLeft: event => this.goTo(this.step - (event.shiftKey ? 10 : 1)),
      ArrowRight: event => this.goTo(this.step + (event.shiftKey ? 10 : 1)),
      ArrowUp: () => this.changeSpeed(1),
      ArrowDown: () => this.changeSpeed(-1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.episode.steps),
      n: () => this.selectNextAgent(1),
      p: () => this.selectNextAgent(-1),
      f: () => this.toggle(this.page.follow),
      v: () => this.toggle(this.page.observationWindow),
      "+": () => this.zoom(1.4),
      "=": () => this.zoom(1.4),
      "-": () => this.zoom(1 / 1.4),
      0: () => this.fit(),
      Escape: () => this.select(null),
    };
    document.addEventListener("keydown", event => {
      const { target, key } = event;
      const isHandledByControl = target.tagName === "SELECT"
        || (key === " " && /^(BUTTON|SUMMARY|INPUT)$/.test(target.tagName) && target !== this.page.slider);
      const action = actions[key.length === 1 ? key.toLowerCase() : key];
      if (!action || isHandledByControl || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action(event);
    });
  }

  connectInputs() {
    const { page, episode } = this;
    page.slider.addEventListener("input", () => { this.isPlaying = false; this.goTo(Number(page.slider.value)); });
    page.speed.addEventListener("change", () => this.restartClock());
    page.agents.addEventListener("change", () => this.select(episode.agents[Number(page.agents.value)]));
    page.follow.addEventListener("change", () => {
      if (page.follow.checked && !this.selected) this.selectNextAgent(1);
      this.scheduleDraw();
    });
    page.observationWindow.addEventListener("change", () => this.scheduleDraw());
    page.curve.addEventListener("pointerdown", event =>
      this.goTo(((event.offsetX - CURVE_MARGIN) / (page.curve.clientWidth - CURVE_MARGIN)) * episode.steps));
    window.addEventListener("hashchange", () => this.applyUrlFragment());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.changeTheme());
    // draw immediately, because resizing clears the canvas
    new ResizeObserver(() => { this.map.resize(); this.draw(); }).observe(page.map);
  }

  // On the map, a click selects, a drag pans, and the wheel or a two-finger pinch zooms.
  connectPointers() {
    const { page, episode, map } = this;
    const pointers = new Map();  // (x, y) by pointer id
    let hasMoved = false;

    page.map.addEventListener("pointerdown", event => {
      page.map.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      hasMoved = pointers.size > 1;
    });
    page.map.addEventListener("pointermove", event => {
      const { offsetX: x, offsetY: y, pointerId } = event;
      this.showCellUnderPointer(map.cellAt(x, y));
      const before = pointers.get(pointerId);
      if (!before) return;
      if (!hasMoved && Math.hypot(x - before[0], y - before[1]) < 5) return;
      hasMoved = true;
      const other = [...pointers].find(([id]) => id !== pointerId)?.[1];
      if (other) {
        const distance = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
        map.zoom(distance([x, y]) / Math.max(1, distance(before)), (x + other[0]) / 2, (y + other[1]) / 2);
      } else {
        page.follow.checked = false;
        map.pan(x - before[0], y - before[1]);
      }
      pointers.set(pointerId, [x, y]);
      this.scheduleDraw();
    });
    page.map.addEventListener("pointerup", event => {
      pointers.delete(event.pointerId);
      if (hasMoved) return;
      const cell = map.cellAt(event.offsetX, event.offsetY);
      this.select(cell && episode.entityAt(...cell, this.step));
    });
    page.map.addEventListener("pointercancel", event => pointers.delete(event.pointerId));
    page.map.addEventListener("pointerleave", () => this.showCellUnderPointer(null));
    page.map.addEventListener("wheel", event => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
  }

  // Show the cell under the pointer and the entity in it; `cell` is null outside the map.
  showCellUnderPointer(cell) {
    const entity = cell && this.episode.entityAt(...cell, this.step);
    this.page.pointed.textContent = [
      cell ? `row ${cell[0]}, column ${cell[1]}` : "",
      entity ? describe(this.episode, entity, this.step) : "",
    ].filter(Boolean).join(" \u00b7 ");
  }
}

// Elements of the page by id in camel case: `zoom-in` is `page.zoomIn`.
function elementsById() {
  return Object.fromEntries([...document.querySelectorAll("[id]")].map(node =>
    [node.id.replace(/-(.)/g, (_, letter) => letter.toUpperCase()), node]));
}

async function openViewer() {
  const page = elementsById();
  const episode = await readEpisode(page.episode);
  page.episode.remove();
  new Viewer(page, episode);
  document.documentElement.dataset.openedIn = Math.round(performance.now());  // milliseconds
}

openViewer().catch(error => {
  document.getElementById("title").textContent = `This replay cannot be shown: ${error.message}`;
  throw error;
});
