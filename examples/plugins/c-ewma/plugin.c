// The detector `ewma-c`: what it does is in ewma.h.

#include "ewma.h"
#include "stateful_detector.h"

#define STATE_VERSION 1
// The most that the hub takes in one verdict.
#define FINDINGS_MAX 100

typedef exports_telltale_plugin_detect_fault_t fault_t;
typedef exports_telltale_plugin_detect_finding_t finding_t;
typedef exports_telltale_plugin_detect_observation_t observation_t;
typedef exports_telltale_plugin_detect_verdict_t verdict_t;

static ewma_config_t config = {.alpha = 0.1, .threshold = 4, .warm_up = 20};
static ewma_list_t list;

// Strings and bytes come without a zero at their end.
static char *text_of(const uint8_t *ptr, size_t len) {
  char *text = calloc(len + 1, 1);
  if (text == NULL) abort();
  if (len > 0) memcpy(text, ptr, len);
  return text;
}

bool exports_telltale_plugin_detect_configure(stateful_detector_string_t *json, fault_t *err) {
  char *text = text_of(json->ptr, json->len);
  const char *wrong = ewma_configure(text, &config);
  free(text);
  stateful_detector_string_free(json);
  if (wrong == NULL) return true;
  err->tag = TELLTALE_PLUGIN_TYPES_FAULT_CONFIG;
  stateful_detector_string_dup(&err->val.config, wrong);
  return false;
}

// Puts a finding in, in the place of the weakest where there is no more room.
static void report(verdict_t *verdict, finding_t finding) {
  finding_t *findings = verdict->findings.ptr, *place = findings;
  if (verdict->findings.len < FINDINGS_MAX) {
    findings[verdict->findings.len++] = finding;
    return;
  }
  for (size_t i = 1; i < FINDINGS_MAX; i++) {
    if (findings[i].score < place->score) place = &findings[i];
  }
  if (place->score < finding.score) *place = finding;
}

static finding_t finding_of(uint32_t series, ewma_judged_t judged) {
  return (finding_t){
      .series = series,
      .type.tag = judged.z > 0 ? EXPORTS_TELLTALE_PLUGIN_DETECT_FINDING_TYPE_SPIKE
                               : EXPORTS_TELLTALE_PLUGIN_DETECT_FINDING_TYPE_DROP,
      .score = judged.score,
      .deviation = {true, judged.z},
      .expected = {true, judged.mean},
      .lower = {true, judged.lower},
      .upper = {true, judged.upper},
  };
}

bool exports_telltale_plugin_detect_observe(observation_t *shown, verdict_t *verdict, fault_t *err) {
  (void)err;
  for (size_t i = 0; i < shown->gone.len; i++) ewma_forget(&list, shown->gone.ptr[i]);
  // What is handed over is freed by the caller.
  size_t count = shown->ids.len;
  *verdict = (verdict_t){
      .scores = {calloc(count + 1, sizeof(double)), count},
      .findings = {calloc(FINDINGS_MAX, sizeof(finding_t)), 0},
  };
  for (size_t i = 0; i < count; i++) {
    ewma_known_t *known = ewma_find(&list, shown->ids.ptr[i]);
    double value = shown->values.ptr[i];
    if (known->count >= config.warm_up) {
      ewma_judged_t judged = ewma_judge(known, value, config.threshold);
      verdict->scores.ptr[i] = judged.score;
      if (judged.score >= 0.5) report(verdict, finding_of(known->id, judged));
    }
    ewma_learn(known, value, config.alpha);
  }
  exports_telltale_plugin_detect_observation_free(shown);
  return true;
}

uint32_t exports_telltale_plugin_state_version(void) { return STATE_VERSION; }

void exports_telltale_plugin_state_save(stateful_detector_list_u8_t *saved) {
  saved->ptr = (uint8_t *)ewma_save(&list, &saved->len);
}

bool exports_telltale_plugin_state_restore(uint32_t version, stateful_detector_list_u8_t *bytes,
                                           stateful_detector_string_t *err) {
  (void)err;
  if (version == STATE_VERSION) {
    char *text = text_of(bytes->ptr, bytes->len);
    ewma_restore(&list, text);
    free(text);
  }
  stateful_detector_list_u8_free(bytes);
  return true;
}
