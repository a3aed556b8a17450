/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  Plans that an engine keeps, and when they are too old.
 *
 * An engine asks the same questions at each turn, and to plan most of them takes
 * longer than to answer them, so each is planned once: statements in C are kept
 * (sql.c), those in functions by PL/pgSQL. A function in SQL is planned anew by
 * every statement that calls it, so what an engine calls is none where it reads tables.
 *
 * A plan that was made while a table was small is a bad one when it is large.
 * PostgreSQL makes plans anew when a table was analyzed, which may be a minute
 * after it was filled; so all are given up here as soon as a table has doubled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"

#include "engine.h"
#include "mailchimp_sync.h"

/* a table without statistics is planned for as if it had so many blocks */
#define PLANNED_BLOCKS 10

/* Those that the work of an hour can fill. */
static const char *const tables[] = {"contact",	 "member",	   "event",	  "recipient",
									 "activity", "resolution", "opt_out", "failure"};

/* A table that somebody keeps for themselves (VACUUM FULL) is not waited for: it is as large as it was. */
static BlockNumber
blocks(const char *table, BlockNumber before)
{
	Oid schema = get_namespace_oid(MC_SCHEMA, false);
	Oid oid = get_relname_relid(table, schema);
	Relation relation;
	BlockNumber result;

	if (!ConditionalLockRelationOid(oid, AccessShareLock))
		return before;
	relation = table_open(oid, NoLock);
	result = RelationGetNumberOfBlocks(relation);
	table_close(relation, AccessShareLock);
	return result;
}

/* In a transaction. The plans are those of the process, and so are the sizes for which they were made. */
void
mc_forget_bad_plans(void)
{
	static BlockNumber planned[lengthof(tables)];
	bool grown = false;

	for (size_t i = 0; i < lengthof(tables); i++)
	{
		BlockNumber now = blocks(tables[i], planned[i]);

		if (now / 2 >= Max(planned[i], PLANNED_BLOCKS / 2))
			grown = true;
		else if (now >= planned[i] / 2)
			continue;
		planned[i] = now;
	}
	if (grown)
		ResetPlanCache();
}
