// The colours of charts, read from the style sheet: a canvas knows no custom properties.

const LINES = 8;

/** The colours of the current theme. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    lines: Array.from({ length: LINES }, (_, i) => of(`--line-${i + 1}`)),
    grid: of('--rule-faint'), axis: of('--quiet'), accent: of('--accent'), bad: of('--failed'),
    mark: of('--queued'), resume: of('--succeeded'), twice: of('--twice'),
    font: 'system-ui, sans-serif',
  };
}

/** The colour with an alpha: #rrggbb and 0 to 1. */
export const faint = (colour, alpha) => `${colour}${Math.round(alpha * 255).toString(16).padStart(2, '0')}`;
