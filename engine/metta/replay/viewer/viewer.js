// The page: what is selected, which step is shown, and everything that changes them.

function openPage() {
  const page = Object.fromEntries([...document.querySelectorAll("[id]")].map(node =>
    [node.id.replace(/-(.)/g, (_, letter) => letter.toUpperCase()), node]));
  const episode = readEpisode(page.episode);
  page.episode.remove();
  const painter = new Painter(episode);
  const map = new MapView(page.map, episode, painter);
  let step = 0, selected = null, isPlaying = false, isDrawn = false, played = 0, playedAt = 0;

  // -- showing ----------------------------------------------------------------------------------------------------

  function show() {
    if (!isDrawn) requestAnimationFrame(draw);
    isDrawn = true;
  }

  function draw() {
    isDrawn = false;
    if (page.follow.checked && selected) map.center(...episode.place(selected, step));
    map.draw(step, selected, page.sight.checked);
    page.scrub.value = step;
    page.scrub.setAttribute("aria-valuetext", `step ${step} of ${episode.steps}`);
    page.time.textContent = `${step} / ${episode.steps}`;
    page.play.textContent = isPlaying ? "Pause" : step === episode.steps ? "Replay" : "Play";
    if (selected) showSelection(page, episode, selected, step);
    else showNothingSelected(page);
    page.agents.value = selected && isAgent(selected) ? selected.agent_id : "";
    const agent = selected && isAgent(selected) ? selected : null;
    drawCurve(page.curve, episode, agent, step);
    page.curveKey.textContent = agent ? "line: this agent \u00b7 dashed: mean of all agents" : "dashed: mean of all agents";
    showGroups(page, episode, painter, step);
  }

  // -- what can change --------------------------------------------------------------------------------------------

  function goTo(wanted) {
    step = Math.min(episode.steps, Math.max(0, Math.round(wanted) || 0));
    [played, playedAt] = [step, performance.now()];
    show();
  }

  function select(thing) {
    selected = thing ?? null;
    show();
  }

  function selectNextAgent(by) {
    const agents = episode.agents;
    const index = selected && isAgent(selected) ? selected.agent_id + by : by > 0 ? 0 : -1;
    select(agents[(index + agents.length) % agents.length]);
  }

  function play(wanted) {
    if (wanted && step === episode.steps) goTo(0);
    isPlaying = wanted;
    [played, playedAt] = [step, performance.now()];
    if (wanted) requestAnimationFrame(advance);
    show();
  }

  function advance(now) {
    if (!isPlaying) return;
    const reached = Math.min(episode.steps, played + Math.floor((Math.max(0, now - playedAt) / 1000) * Number(page.speed.value)));
    if (reached !== step) {
      step = reached;
      show();
    }
    if (step === episode.steps) play(false);
    else requestAnimationFrame(advance);
  }

  function changeSpeed(by) {
    page.speed.selectedIndex = Math.min(page.speed.length - 1, Math.max(0, page.speed.selectedIndex + by));
    [played, playedAt] = [step, performance.now()];
  }

  function toggle(box) {
    box.checked = !box.checked;
    show();
  }

  // `#step=120&agent=5` opens the page there.
  function followAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (wanted.has("step")) goTo(Number(wanted.get("step")));
    if (wanted.has("agent")) select(episode.agents[Number(wanted.get("agent"))]);
  }

  // -- what changes it --------------------------------------------------------------------------------------------

  const clicks = {
    play: () => play(!isPlaying),
    first: () => goTo(0),
    back: () => goTo(step - 1),
    forward: () => goTo(step + 1),
    last: () => goTo(episode.steps),
    previousAgent: () => selectNextAgent(-1),
    nextAgent: () => selectNextAgent(1),
    zoomIn: () => { map.zoom(1.4); show(); },
    zoomOut: () => { map.zoom(1 / 1.4); show(); },
    fit: () => { page.follow.checked = false; map.fit(); show(); },
  };
  for (const [id, action] of Object.entries(clicks)) page[id].addEventListener("click", action);

  const keys = {
    " ": clicks.play,
    ArrowLeft: event => goTo(step - (event.shiftKey ? 10 : 1)),
    ArrowRight: event => goTo(step + (event.shiftKey ? 10 : 1)),
    ArrowUp: () => changeSpeed(1),
    ArrowDown: () => changeSpeed(-1),
    Home: clicks.first,
    End: clicks.last,
    n: clicks.nextAgent,
    p: clicks.previousAgent,
    f: () => toggle(page.follow),
    v: () => toggle(page.sight),
    "+": clicks.zoomIn,
    "=": clicks.zoomIn,
    "-": clicks.zoomOut,
    0: clicks.fit,
    Escape: () => select(null),
  };
  document.addEventListener("keydown", event => {
    const isForControl = event.target.tagName === "SELECT" || (event.key === " " && /^(BUTTON|SUMMARY|INPUT)$/.test(event.target.tagName) && event.target !== page.scrub);
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || isForControl || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });

  page.scrub.addEventListener("input", () => { isPlaying = false; goTo(Number(page.scrub.value)); });
  page.speed.addEventListener("change", () => changeSpeed(0));
  page.agents.addEventListener("change", () => select(episode.agents[Number(page.agents.value)]));
  page.follow.addEventListener("change", () => { if (page.follow.checked && !selected) selectNextAgent(1); show(); });
  page.sight.addEventListener("change", show);
  page.curve.addEventListener("pointerdown", event => goTo(((event.offsetX - AXIS) / (page.curve.clientWidth - AXIS)) * episode.steps));
  window.addEventListener("hashchange", followAddress);
  new ResizeObserver(() => { map.resize(); draw(); }).observe(page.map);  // at once, for resizing empties the canvas

  // -- pointers on the map: a click selects, a drag moves, two fingers zoom -----------------------------------------

  const pointers = new Map();
  let hasMoved = false;

  page.map.addEventListener("pointerdown", event => {
    page.map.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    hasMoved = pointers.size > 1;
  });
  page.map.addEventListener("pointermove", event => {
    const { offsetX: x, offsetY: y, pointerId } = event;
    const cell = map.cellAt(x, y), thing = cell && episode.thingAt(...cell, step);
    page.pointed.textContent = cell ? `row ${cell[0]}, column ${cell[1]}${thing ? ` \u00b7 ${describe(episode, thing, step)}` : ""}` : "";
    const before = pointers.get(pointerId);
    if (!before) return;
    if (!hasMoved && Math.hypot(x - before[0], y - before[1]) < 5) return;
    hasMoved = true;
    const other = [...pointers].find(([id]) => id !== pointerId)?.[1];
    if (other) {
      const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
      map.zoom(apart([x, y]) / Math.max(1, apart(before)), (x + other[0]) / 2, (y + other[1]) / 2);
    } else {
      page.follow.checked = false;
      map.pan(x - before[0], y - before[1]);
    }
    pointers.set(pointerId, [x, y]);
    show();
  });
  page.map.addEventListener("pointerup", event => {
    pointers.delete(event.pointerId);
    if (hasMoved) return;
    const cell = map.cellAt(event.offsetX, event.offsetY);
    select(cell && episode.thingAt(...cell, step));
  });
  page.map.addEventListener("pointercancel", event => pointers.delete(event.pointerId));
  page.map.addEventListener("pointerleave", () => { page.pointed.textContent = ""; });
  page.map.addEventListener("wheel", event => {
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    show();
  }, { passive: false });

  // -- the beginning ----------------------------------------------------------------------------------------------

  document.title = `${episode.title} \u00b7 metta replay`;
  page.title.textContent = episode.title;
  const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  page.summary.textContent = [
    count(episode.agents.length, "agent"),
    `${episode.rows} \u00d7 ${episode.cols} cells`,
    count(episode.steps, "step"),
    `seed ${episode.seed}`,
  ].join(" \u00b7 ");
  page.scrub.max = episode.steps;
  fill(page.agents, episode.agents.map(agent => {
    const option = element("option", agentName(episode, agent));
    option.value = agent.agent_id;
    return option;
  }));
  showLegend(page, episode, painter);
  map.resize();
  select(episode.agents[0]);
  followAddress();
  draw();
  document.documentElement.dataset.openedIn = Math.round(performance.now());
}

try {
  openPage();
} catch (error) {
  document.getElementById("title").textContent = `This replay cannot be shown: ${error.message}`;
  throw error;
}
