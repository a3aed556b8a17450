/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Who is asking, and acting as somebody else.
 *
 * While we act as another role, SECURITY_LOCAL_USERID_CHANGE is set, so that
 * nothing inside can SET ROLE or change the session's user; restrictions that are in
 * force already stay in force. An error needs no cleaning up: the abort of the
 * (sub)transaction puts back identity and settings. The caller is ours, so
 * mc_as_owner puts it back itself, error or not. Calls nest: a trigger of the CRM
 * that runs inside of one public function may call another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "gate.h"
#include "mailchimp_sync.h"

PG_FUNCTION_INFO_V1(mc_caller_role);

/* Of the innermost mc_as_owner; InvalidOid and NULL outside of any. */
static Oid current_caller = InvalidOid;
static const char *current_caller_path = NULL;

Oid
mc_extension_oid(bool missing_ok)
{
	return get_extension_oid(MC_EXTENSION, missing_ok);
}

/* Read anew each time: the extension may have been dropped and made by another role. */
Oid
mc_extension_owner(void)
{
	Relation catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(MC_EXTENSION));
	scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("extension \"%s\" does not exist in this database", MC_EXTENSION),
						errhint("CREATE EXTENSION %s makes it.", MC_EXTENSION)));
	return owner;
}

void
mc_become(Oid role, int sec_context, McIdentity *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	SetUserIdAndSecContext(role, saved->sec_context | sec_context);
}

void
mc_become_owner(McIdentity *saved)
{
	mc_become(mc_extension_owner(), SECURITY_LOCAL_USERID_CHANGE, saved);
}

void
mc_restore(const McIdentity *saved)
{
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

Oid
mc_caller(void)
{
	return OidIsValid(current_caller) ? current_caller : GetUserId();
}

const char *
mc_caller_search_path(void)
{
	return current_caller_path ? current_caller_path : namespace_search_path;
}

void
mc_as_owner(void (*work)(void *arg), void *arg)
{
	Oid outer_caller = current_caller;
	const char *outer_path = current_caller_path;
	Oid caller = GetUserId();
	char *path = pstrdup(namespace_search_path);

	PG_TRY();
	{
		McIdentity saved;
		int nest_level;

		mc_become_owner(&saved);
		current_caller = caller;
		current_caller_path = path;
		nest_level = NewGUCNestLevel();
		(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		work(arg);
		AtEOXact_GUC(true, nest_level);
		mc_restore(&saved);
	}
	PG_FINALLY();
	{
		current_caller = outer_caller;
		current_caller_path = outer_path;
	}
	PG_END_TRY();
	pfree(path);
}

/* caller(): the role that called the public function, as a regrole */
Datum
mc_caller_role(PG_FUNCTION_ARGS)
{
	PG_RETURN_OID(mc_caller());
}
