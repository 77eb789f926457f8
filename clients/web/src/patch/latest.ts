// SPDX-License-Identifier: Apache-2.0
// Work of which only the newest matters, one at a time: what is asked for meanwhile replaces what
// waits. Calls that change a graph must not overtake each other, so they are not just called off.

export class Latest {
  #running = false;
  #next: (() => Promise<void>) | undefined;

  /** Runs `work` now, or when the one that runs has ended, unless something newer comes first. */
  ask(work: () => Promise<void>): void {
    this.#next = work;
    if (!this.#running) void this.#run();
  }

  /** Forgets what waits. */
  clear(): void {
    this.#next = undefined;
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#next) {
      const work = this.#next;
      this.#next = undefined;
      await work();
    }
    this.#running = false;
  }
}
