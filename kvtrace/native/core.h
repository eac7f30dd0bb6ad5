/* What every C file of the core includes. */
#ifndef KV_CORE_H
#define KV_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KV_EXPORT __attribute__((visibility("default")))

#define KV_MISSING (-1)

#endif
