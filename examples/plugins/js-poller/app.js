// The collector `poller`: what it does is in poller.js.

import { fetch } from "telltale:plugin/http@0.1.0";

import { Poller } from "./poller.js";
import { collector } from "./telltale.js";

export const collect = collector(new Poller(fetch));
