// Streaming resampler to 16 kHz: interpolation with a windowed sinc (Smith, "Digital Audio Resampling"), which also is
// the low-pass that keeps what lies above 8 kHz from folding back. Runs inside the AudioWorklet.
//
// Output sample k sits at input time k · from / to. Its fraction takes to / gcd(from, to) values, so the weights are a
// table of that many rows: 1 row for 48 kHz, 160 rows for 44.1 kHz.

const ZERO_CROSSINGS = 24; // on either side
const ROLL_OFF = 0.92; // of the Nyquist frequency: where the low-pass begins to fall

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

export class Resampler {
  constructor(fromHz, toHz = 16_000) {
    const divisor = gcd(fromHz, toHz);
    this.from = fromHz / divisor;
    this.to = toHz / divisor;
    const cutoff = ROLL_OFF * Math.min(1, toHz / fromHz);
    this.half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.table = Array.from({ length: this.to }, (_, phase) => weights(phase / this.to, this.half, cutoff));
    this.history = new Float32Array(this.half); // input from before the first sample: silence
    this.next = 0; // position of the next output sample, in units of 1/to input samples after history[half]
  }

  // Feed input (Float32Array of any length), get the output that is complete by now.
  push(input) {
    if (this.from === this.to) return input;
    const wave = new Float32Array(this.history.length + input.length);
    wave.set(this.history);
    wave.set(input, this.history.length);
    const output = [];
    for (;;) {
      const whole = Math.floor(this.next / this.to);
      if (whole + 2 * this.half >= wave.length) break; // its last weight needs a sample that is not here yet
      const row = this.table[this.next % this.to];
      let sum = 0;
      for (let i = 0; i < row.length; i++) sum += row[i] * wave[whole + 1 + i];
      output.push(sum);
      this.next += this.from;
    }
    const used = Math.min(Math.floor(this.next / this.to), wave.length);
    this.history = wave.slice(used);
    this.next -= used * this.to;
    return Float32Array.from(output);
  }

  // The rest of the output, after the last input.
  flush() {
    return this.push(new Float32Array(this.half));
  }
}

// Weights for the input samples at −half + 1 … half around the whole part of a position with this fraction.
function weights(fraction, half, cutoff) {
  const row = new Float32Array(2 * half);
  let sum = 0;
  for (let i = 0; i < row.length; i++) {
    const distance = i - half + 1 - fraction;
    const x = Math.PI * distance * cutoff;
    const sinc = x === 0 ? 1 : Math.sin(x) / x;
    const hann = 0.5 + 0.5 * Math.cos((Math.PI * distance) / (half + 1));
    row[i] = sinc * hann;
    sum += row[i];
  }
  return row.map((weight) => weight / sum); // a constant stays what it is
}
