// The map canvas: drawing, panning, zooming, and conversion of canvas points to cells.

const MIN_CELL = 2, MAX_CELL = 120, MIN_FOLLOWED_CELL = 28;  // pixels per cell

class MapView {
  constructor(canvas, episode, painter) {
    Object.assign(this, { canvas, episode, painter, isFitted: true });
    // side of a cell and position of the map on the canvas, in CSS pixels
    this.cell = this.left = this.top = 1;
  }

  // Set the canvas resolution to its size on the page, in device pixels.
  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    [this.width, this.height] = [width, height];
    if (this.isFitted) this.fit();
  }

  // Show the whole map.
  fit() {
    const { rows, cols } = this.episode;
    this.cell = Math.min(this.width / cols, this.height / rows);
    this.left = (this.width - cols * this.cell) / 2;
    this.top = (this.height - rows * this.cell) / 2;
    this.isFitted = true;
  }

  // Zoom around the point (x, y) of the canvas, in CSS pixels.
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const cell = Math.min(MAX_CELL, Math.max(MIN_CELL, this.cell * factor));
    this.left = x - ((x - this.left) * cell) / this.cell;
    this.top = y - ((y - this.top) * cell) / this.cell;
    this.cell = cell;
    this.isFitted = false;
  }

  pan(right, down) {
    this.left += right;
    this.top += down;
    this.isFitted = false;
  }

  center(row, col) {
    this.cell = Math.max(this.cell, MIN_FOLLOWED_CELL);
    this.left = this.width / 2 - (col + 0.5) * this.cell;
    this.top = this.height / 2 - (row + 0.5) * this.cell;
    this.isFitted = false;
  }

  // [row, col] of the cell at a point of the canvas; null outside the map.
  cellAt(x, y) {
    const row = Math.floor((y - this.top) / this.cell), col = Math.floor((x - this.left) / this.cell);
    return row >= 0 && col >= 0 && row < this.episode.rows && col < this.episode.cols ? [row, col] : null;
  }

  draw(step, selected, showsWindow) {
    const { episode, cell } = this;
    const context = this.canvas.getContext("2d");
    this.canvas.classList.toggle("fitted", this.isFitted);  // a finger then scrolls the page, else it moves the map
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = theme.outside;
    context.fillRect(0, 0, this.width, this.height);
    context.translate(this.left, this.top);
    context.fillStyle = theme.floor;
    context.fillRect(0, 0, episode.cols * cell, episode.rows * cell);
    const seen = selected && isAgent(selected) && showsWindow ? this.observedCells(selected, step) : null;
    if (seen) {
      context.fillStyle = theme.seen;
      context.fillRect(...seen);
    }
    if (cell >= 12) this.drawGrid(context);
    for (const entity of episode.stationary.values()) this.drawEntity(context, entity, step);
    for (const entity of episode.movable) if (!isAgent(entity)) this.drawEntity(context, entity, step);
    for (const agent of episode.agents) this.drawEntity(context, agent, step);
    for (const agent of episode.agents) this.drawAttack(context, agent, step);
    if (seen) this.drawFrame(context, seen);
    if (selected) this.drawSelection(context, selected, step);
  }

  drawGrid(context) {
    const { episode, cell } = this;
    context.strokeStyle = theme.grid;
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 1; row < episode.rows; row++) {
      context.moveTo(0, row * cell);
      context.lineTo(episode.cols * cell, row * cell);
    }
    for (let col = 1; col < episode.cols; col++) {
      context.moveTo(col * cell, 0);
      context.lineTo(col * cell, episode.rows * cell);
    }
    context.stroke();
  }

  drawEntity(context, entity, step) {
    const [row, col] = this.episode.position(entity, step);
    const x = col * this.cell, y = row * this.cell;
    const isVisible = x + this.left > -this.cell && y + this.top > -this.cell && x + this.left < this.width && y + this.top < this.height;
    if (!isVisible) return;
    // at low zoom, agents are drawn larger than their cells, so that they remain visible among the objects
    const size = isAgent(entity) ? Math.max(this.cell, Math.min(16, 1.7 * this.cell)) : this.cell;
    const shift = (this.cell - size) / 2;
    this.painter.paint(context, x + shift, y + shift, size, spriteState(this.episode, entity, step));
  }

  drawAttack(context, agent, step) {
    const target = this.episode.attackTarget(agent, step);
    if (!target) return;
    const center = entity => this.episode.position(entity, step).map(index => (index + 0.5) * this.cell).reverse();
    paintAttack(context, this.cell, center(agent), center(target));
  }

  // The rectangle [x, y, width, height] of the cells that an agent observes.
  observedCells(agent, step) {
    const { episode, cell } = this;
    const [row, col] = episode.position(agent, step);
    const [height, width] = episode.observationShape;
    const top = Math.max(0, row - (height >> 1)), bottom = Math.min(episode.rows, row + (height >> 1) + 1);
    const left = Math.max(0, col - (width >> 1)), right = Math.min(episode.cols, col + (width >> 1) + 1);
    return [left * cell, top * cell, (right - left) * cell, (bottom - top) * cell];
  }

  // A dashed frame around the observed cells; nothing in them or around them changes its color.
  drawFrame(context, rectangle) {
    for (const [color, dash] of [[theme.paper, []], [theme.accent, [7, 5]]]) {
      context.strokeStyle = color;
      context.lineWidth = dash.length ? 2.5 : 4;
      context.setLineDash(dash);
      context.strokeRect(...rectangle);
    }
    context.setLineDash([]);
  }

  drawSelection(context, entity, step) {
    const [row, col] = this.episode.position(entity, step);
    for (const [width, color] of [[6, theme.paper], [3, theme.accent]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.strokeRect(col * this.cell - 1, row * this.cell - 1, this.cell + 2, this.cell + 2);
    }
  }
}
