// {{name}}: a detector. What it finds odd is in limit.h.

#include <stdlib.h>

#include "detector.h"
#include "limit.h"

// The most that the hub takes in one verdict.
#define FINDINGS_MAX 100

typedef exports_telltale_plugin_detect_fault_t fault_t;
typedef exports_telltale_plugin_detect_finding_t finding_t;

bool exports_telltale_plugin_detect_configure(detector_string_t *config_json, fault_t *err) {
  (void)err;
  detector_string_free(config_json);
  return true;
}

bool exports_telltale_plugin_detect_observe(
    exports_telltale_plugin_detect_observation_t *observation,
    exports_telltale_plugin_detect_verdict_t *verdict, fault_t *err) {
  (void)err;
  // What is handed over is freed by the caller.
  size_t count = observation->ids.len, found = 0;
  double *scores = calloc(count + 1, sizeof *scores);
  finding_t *findings = calloc(FINDINGS_MAX, sizeof *findings);
  for (size_t i = 0; i < count; i++) {
    scores[i] = limit_score(observation->values.ptr[i]);
    if (scores[i] < 0.5 || found == FINDINGS_MAX) continue;
    findings[found++] = (finding_t){
        .series = observation->ids.ptr[i],
        .type.tag = EXPORTS_TELLTALE_PLUGIN_DETECT_FINDING_TYPE_SPIKE,
        .score = scores[i],
        .upper = {.is_some = true, .val = LIMIT},
    };
  }
  verdict->scores = (detector_list_f64_t){scores, count};
  verdict->findings = (exports_telltale_plugin_detect_list_finding_t){findings, found};
  exports_telltale_plugin_detect_observation_free(observation);
  return true;
}
