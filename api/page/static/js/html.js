// What every view needs of Preact: the tag `html`, and the hooks.
export {
  Component, html, render, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState,
} from '../vendor/preact-htm.js';
