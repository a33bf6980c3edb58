// Which words of one text are not in the other, by the longest common subsequence. Case and punctuation do not count.

// Words, or single characters of scripts without spaces; each keeps the text up to the next one.
export function splitWords(text) {
  return text.match(/[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff][^\p{L}\p{N}]*|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+\s*/gu) ?? [];
}

const plain = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

// → { words: [{ text, same }], errors, total }: the words of `text` and whether `reference` has them too; `errors` is
// the least number of insertions, deletions and substitutions between both, `total` the number of reference words.
export function compareTexts(reference, text) {
  const a = splitWords(reference).filter((word) => plain(word));
  const b = splitWords(text);
  const rows = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = 0; i <= a.length; i++) {
    for (let j = 0; j <= b.length; j++) {
      if (i === 0 || j === 0) rows[i][j] = i + j;
      else rows[i][j] = Math.min(rows[i - 1][j - 1] + (plain(a[i - 1]) !== plain(b[j - 1])), rows[i - 1][j] + 1, rows[i][j - 1] + 1);
    }
  }
  const words = [];
  let i = a.length;
  let j = b.length;
  while (j > 0) {
    const same = i > 0 && plain(a[i - 1]) === plain(b[j - 1]);
    if (i > 0 && rows[i][j] === rows[i - 1][j - 1] + !same) {
      words.push({ text: b[--j], same });
      i--;
    } else if (rows[i][j] === rows[i][j - 1] + 1) words.push({ text: b[--j], same: false });
    else i--;
  }
  return { words: words.reverse(), errors: rows[a.length][b.length], total: a.length };
}
