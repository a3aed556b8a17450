/*-------------------------------------------------------------------------
 *
 * event.h
 *	  Storing events (event.c) for the triggers (trigger.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_EVENT_H
#define MC_EVENT_H

#include "postgres.h"

/* The stored columns of a row before and after as JSON; NULL: there is none */
typedef struct McEventRow
{
	const char *old_row;
	const char *new_row;
} McEventRow;

extern void
mc_store_events(Oid schema, int32 source_id, int32 relation_id, const McEventRow *rows, int nrows);

#endif /* MC_EVENT_H */
