// The detector `ewma-js`: what it does is in ewma.js.

import { Ewma } from "./ewma.js";
import { detector, keeper } from "./telltale.js";

const ewma = new Ewma();

export const detect = detector(ewma);
export const state = keeper(ewma);
