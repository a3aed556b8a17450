// Seeded random numbers. Two runs with the same seed and the same requests give the same ids and the same engagement, so
// that a failing test can be repeated. Not for secrets.

export class Rng {
  constructor(seed) {
    this.state = (Number(seed) || 0) >>> 0;
    // The first few outputs of neighbouring seeds resemble each other.
    for (let i = 0; i < 8; i++) this.next();
  }

  // splitmix32: one multiplication more than a linear generator, and good enough for shuffles.
  next() {
    this.state = (this.state + 0x9e3779b9) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  float() {
    return this.next() / 4294967296;
  }

  int(below) {
    return Math.floor(this.float() * below);
  }

  hex(digits) {
    let out = '';
    while (out.length < digits) out += this.next().toString(16).padStart(8, '0');
    return out.slice(0, digits);
  }

  shuffle(list) {
    const out = list.slice();
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
}
