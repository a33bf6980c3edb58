// Plays the selected clip, the whole of it or a part, and says where it is. One <audio> element for the page: starting
// one sound stops the other.

const audio = document.getElementById("audio");
const listeners = new Set();
let stopAt = Infinity;
let owner = null; // what the sound belongs to: a clip, or a noisy version of it

// listener({ owner, playing, positionS }) is called on every change and about 60 times a second while playing.
export const onPlayer = (listener) => listeners.add(listener);
export const player = () => ({ owner, playing: !audio.paused, positionS: audio.currentTime });

// Play `url` from `fromS` to `toS` seconds. Raises the browser's error if it cannot play the format.
export async function play(newOwner, url, fromS = 0, toS = Infinity) {
  load(newOwner, url);
  stopAt = toS;
  audio.currentTime = fromS;
  await audio.play();
}

export async function resume() {
  stopAt = Infinity;
  if (audio.ended) audio.currentTime = 0;
  await audio.play();
}

export const pause = () => audio.pause();

export function seek(newOwner, url, positionS) {
  load(newOwner, url);
  stopAt = Infinity;
  audio.currentTime = positionS;
  tell();
}

export function load(newOwner, url) {
  owner = newOwner;
  if (audio.src === url) return;
  audio.src = url;
}

function tell() {
  for (const listener of listeners) listener(player());
}

function update() {
  if (audio.currentTime >= stopAt) {
    stopAt = Infinity;
    audio.pause();
  }
  tell();
}

function follow() {
  update();
  if (!audio.paused) requestAnimationFrame(follow);
}

audio.addEventListener("play", follow);
// In a hidden tab there are no animation frames, but these events still come.
for (const event of ["pause", "ended", "seeked", "timeupdate"]) audio.addEventListener(event, update);
