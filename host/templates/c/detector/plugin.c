// {{name}}: a detector.

#include <stdlib.h>

#include "detector.h"

// Above this a value is a finding.
#define LIMIT 1e9
// The most that the hub takes in one verdict.
#define FINDINGS_MAX 100

bool exports_telltale_plugin_detect_configure(detector_string_t *config_json,
                                              exports_telltale_plugin_detect_fault_t *err) {
  (void)err;
  detector_string_free(config_json);
  return true;
}

bool exports_telltale_plugin_detect_observe(
    exports_telltale_plugin_detect_observation_t *observation,
    exports_telltale_plugin_detect_verdict_t *verdict,
    exports_telltale_plugin_detect_fault_t *err) {
  (void)err;
  *verdict = (exports_telltale_plugin_detect_verdict_t){0};
  // What is handed over is freed by the caller.
  exports_telltale_plugin_detect_finding_t *findings = calloc(FINDINGS_MAX, sizeof *findings);
  size_t found = 0;
  for (size_t i = 0; i < observation->ids.len && found < FINDINGS_MAX; i++) {
    double value = observation->values.ptr[i];
    if (value > LIMIT) {
      exports_telltale_plugin_detect_finding_t *finding = &findings[found++];
      finding->series = observation->ids.ptr[i];
      finding->type.tag = EXPORTS_TELLTALE_PLUGIN_DETECT_FINDING_TYPE_SPIKE;
      finding->score = 0.9;
      finding->upper.is_some = true;
      finding->upper.val = LIMIT;
    }
  }
  verdict->findings.ptr = findings;
  verdict->findings.len = found;
  exports_telltale_plugin_detect_observation_free(observation);
  return true;
}
