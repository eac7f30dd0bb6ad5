/* Words of a trace's columns by their wire values: see kvtrace/trace/schema.py. */
#ifndef KV_WORDS_H
#define KV_WORDS_H

enum kv_op { KV_READ, KV_WRITE, KV_DELETE, KV_LOOKUP };
enum kv_phase { KV_PREFILL, KV_DECODE, KV_EVICT, KV_PROMOTE };
#define KV_TIERS 4

#endif
