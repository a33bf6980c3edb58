// The discrete Fourier transform of any length, by the mixed-radix algorithm of Cooley and Tukey (1965).
//
//   X[k] = Σ x[n] · e^(−2πi·k·n/N)
//
// N = p · m: the p interleaved sub-sequences x[p·j + r] are transformed on their own (length m) and then combined with
// the twiddle factors e^(−2πi·k·r/N). A prime length is the sum itself. 400, the window of the log-mel, is 2·2·2·2·5·5.

const smallestFactor = (n) => [2, 3, 5, 7].find((p) => n % p === 0) ?? n;

export class FFT {
  constructor(size) {
    this.size = size;
    this.cos = Float64Array.from({ length: size }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this.sin = Float64Array.from({ length: size }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
    this.re = new Float64Array(size);
    this.im = new Float64Array(size);
    this.spareRe = new Float64Array(size);
    this.spareIm = new Float64Array(size);
  }

  // Power |X[k]|² for k = 0 … N/2 of `input` (N real numbers), written into `power`.
  power(input, power) {
    this.transform(input, 0, 1, this.size, 0);
    for (let k = 0; k <= this.size / 2; k++) power[k] = this.re[k] ** 2 + this.im[k] ** 2;
    return power;
  }

  // Transform input[start + j·stride], j = 0 … n−1, into re/im[out … out + n].
  transform(input, start, stride, n, out) {
    if (n === 1) {
      this.re[out] = input[start];
      this.im[out] = 0;
      return;
    }
    const p = smallestFactor(n);
    const m = n / p;
    for (let r = 0; r < p; r++) this.transform(input, start + r * stride, stride * p, m, out + r * m);
    const step = this.size / n; // the table holds e^(−2πi·k/size), so e^(−2πi·k/n) is item k·step
    for (let k = 0; k < n; k++) {
      let re = 0;
      let im = 0;
      for (let r = 0; r < p; r++) {
        const from = out + r * m + (k % m);
        const turn = ((k * r) % n) * step;
        re += this.re[from] * this.cos[turn] - this.im[from] * this.sin[turn];
        im += this.re[from] * this.sin[turn] + this.im[from] * this.cos[turn];
      }
      this.spareRe[k] = re;
      this.spareIm[k] = im;
    }
    this.re.set(this.spareRe.subarray(0, n), out);
    this.im.set(this.spareIm.subarray(0, n), out);
  }
}
