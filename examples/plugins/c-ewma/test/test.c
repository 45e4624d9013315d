// cc test/test.c -lm -o build/test && build/test

#include "../ewma.h"

static void check(bool holds, const char *fact) {
  printf("%s: %s\n", holds ? "ok" : "NOT", fact);
  if (!holds) exit(EXIT_FAILURE);
}

int main(void) {
  ewma_config_t config;
  check(ewma_configure("{}", &config) == NULL, "every key has a default");
  check(ewma_configure("{\"alpha\":0.2,\"warm_up\":3}", &config) == NULL && config.alpha == 0.2,
        "what is set counts");
  check(ewma_configure("{\"treshold\":1}", &config) != NULL, "an unknown key is refused");
  check(ewma_configure("{\"alpha\":\"x\"}", &config) != NULL, "a word is no number");
  check(ewma_configure("{\"alpha\":0}", &config) != NULL, "alpha is above 0");

  ewma_list_t list = {0}, next = {0};
  for (int tick = 0; tick < 40; tick++) {
    ewma_learn(ewma_find(&list, 9), 9 + 2 * (tick % 2), 0.1);
    ewma_learn(ewma_find(&list, 7), 9 + 2 * (tick % 2), 0.1);
  }
  size_t length;
  char *saved = ewma_save(&list, &length);
  ewma_restore(&next, saved);
  check(next.len == 2 && memcmp(list.ptr, next.ptr, 2 * sizeof *list.ptr) == 0,
        "the next instance knows all, to the last bit");
  ewma_judged_t judged = ewma_judge(ewma_find(&next, 7), 20, 4);
  check(judged.score > 0.5 && judged.z > 8 && judged.upper < 20, "a value far off is found");
  for (size_t cut = 0; cut < length; cut++) {
    ewma_list_t damaged = {0};
    saved[length - 1 - cut] = 0;
    ewma_restore(&damaged, saved);
    free(damaged.ptr);
  }
  check(true, "damaged bytes are survived");
  ewma_forget(&list, 7);
  check(list.len == 1 && list.ptr[0].id == 9, "what is gone is forgotten");
  free(list.ptr);
  free(next.ptr);
  free(saved);
}
