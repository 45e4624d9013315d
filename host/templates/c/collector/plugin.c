// {{name}}: a collector. What it measures is in dice.h.

#include "batch.h"
#include "dice.h"

bool exports_telltale_plugin_collect_configure(collector_string_t *config_json, fault_t *err) {
  (void)err;
  collector_string_free(config_json);
  return true;
}

bool exports_telltale_plugin_collect_collect(exports_telltale_plugin_collect_tick_t *tick,
                                             batch_t *batch, fault_t *err) {
  (void)err;
  static bool declared = false;
  *batch = (batch_t){0};
  // A series is declared once, in the batch in which it first appears.
  if (!declared) {
    const char *labels[] = {"die", "0", NULL};
    batch_declare(batch, 0, TELLTALE_PLUGIN_TYPES_KIND_GAUGE, "{{name}}.roll", "1",
                  "The last roll of a die", labels);
    declared = true;
  }
  batch_set(batch, 0, dice_roll(tick->number));
  return true;
}
