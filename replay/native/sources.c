/* Of which sources the library was built: an old one must not be used with newer Python. */
#include "core.h"

KV_EXPORT const char *kv_loop_sources(void) { return KV_SOURCES; }
