// {{name}}: a collector.

#include <stdlib.h>

#include "collector.h"

bool exports_telltale_plugin_collect_configure(collector_string_t *config_json,
                                               exports_telltale_plugin_collect_fault_t *err) {
  (void)err;
  collector_string_free(config_json);
  return true;
}

bool exports_telltale_plugin_collect_collect(exports_telltale_plugin_collect_tick_t *tick,
                                             exports_telltale_plugin_collect_batch_t *batch,
                                             exports_telltale_plugin_collect_fault_t *err) {
  (void)err;
  static bool declared = false;
  *batch = (exports_telltale_plugin_collect_batch_t){0};
  // A series is declared once, in the batch in which it first appears.
  if (!declared) {
    declared = true;
    exports_telltale_plugin_collect_declaration_t *declaration = calloc(1, sizeof *declaration);
    collector_string_dup(&declaration->series.name, "{{name}}.roll");
    declaration->series.kind = TELLTALE_PLUGIN_TYPES_KIND_GAUGE;
    collector_string_dup(&declaration->series.unit, "1");
    collector_string_dup(&declaration->series.description, "The last roll of a die");
    batch->declare.ptr = declaration;
    batch->declare.len = 1;
  }
  // What is handed over is freed by the caller.
  batch->ids.ptr = calloc(1, sizeof *batch->ids.ptr);
  batch->ids.len = 1;
  batch->values.ptr = malloc(sizeof *batch->values.ptr);
  batch->values.ptr[0] = (double)(((tick->number * 2654435761u) >> 16) % 6 + 1);
  batch->values.len = 1;
  return true;
}
