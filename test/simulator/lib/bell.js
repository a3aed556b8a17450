// Waiting for something to happen, for the long polls of the control interface: whoever changes something rings, and those
// who wait look again.

export class Bell {
  constructor() {
    this.waiting = new Set();
  }

  ring() {
    for (const wake of [...this.waiting]) wake();
  }

  // Resolves when test() is true or the time is up.
  wait(test, ms) {
    if (test() || ms <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.waiting.delete(wake);
        clearTimeout(timer);
        resolve();
      };
      const wake = () => { if (test()) done(); };
      const timer = setTimeout(done, ms);
      this.waiting.add(wake);
    });
  }
}

export function sleep(ms) {
  return ms > 0 ? new Promise((resolve) => { setTimeout(resolve, ms); }) : Promise.resolve();
}
