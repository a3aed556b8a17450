/*-------------------------------------------------------------------------
 *
 * push.c
 *	  What came back from a request that carried contacts (see push_answer.sql).
 *
 * The reply to POST /lists/{list_id} is 200 even where members failed: members
 * that were created or updated come back as they are now, the others in
 * errors[]. A 4xx means that the whole request was refused.
 *
 * A member of which something has another type than the API says is no reason to
 * throw away what was said of the others, which would be sent again and again: it
 * alone is a failure, and is known to be there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"

#include "engine.h"
#include "mailchimp_sync.h"

static bool
is_string(const cJSON *item)
{
	return cJSON_IsString(item);
}

/* as Mailchimp shows it; none: archived */
static bool
is_status(const cJSON *item)
{
	static const char *const known[] = {"subscribed", "unsubscribed",  "cleaned",
										"pending",	  "transactional", "archived"};

	if (item == NULL)
		return true;
	for (size_t i = 0; i < lengthof(known) && cJSON_IsString(item); i++)
	{
		if (strcmp(item->valuestring, known[i]) == 0)
			return true;
	}
	return false;
}

static bool
is_object(const cJSON *item)
{
	return item == NULL || cJSON_IsObject(item);
}

static bool
are_tags(const cJSON *item)
{
	const cJSON *tag;

	if (item != NULL && !cJSON_IsArray(item))
		return false;
	cJSON_ArrayForEach(tag, item)
	{
		const cJSON *id = cJSON_GetObjectItemCaseSensitive(tag, "id");

		if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(tag, "name")) ||
			(id != NULL && mc_json_int8_arg(tag, "id").isnull))
			return false;
	}
	return true;
}

/* What of a member cannot be read, or NULL. */
static const char *
unreadable_part(const cJSON *member)
{
	static const struct
	{
		const char *name;
		bool (*is_right)(const cJSON *item);
	} parts[] = {
		{"id", is_string},			 {"email_address", is_string}, {"status", is_status},
		{"merge_fields", is_object}, {"tags", are_tags},
	};

	for (size_t i = 0; i < lengthof(parts); i++)
	{
		const cJSON *item = cJSON_GetObjectItemCaseSensitive(member, parts[i].name);

		if (!parts[i].is_right(cJSON_IsNull(item) ? NULL : item))
			return parts[i].name;
	}
	return NULL;
}

/* Those of the members that can be read: an array around what the reply owns, which nobody has to free. */
static const cJSON *
readable_members(const cJSON *members)
{
	cJSON *array = palloc0(sizeof(cJSON));
	cJSON **next = &array->child;
	const cJSON *member;

	array->type = cJSON_Array;
	cJSON_ArrayForEach(member, members)
	{
		if (unreadable_part(member) != NULL)
			continue;
		*next = palloc(sizeof(cJSON));
		**next = *member;
		(*next)->next = NULL;
		next = &(*next)->next;
	}
	return array;
}

static void
refuse_unreadable(McUnit *unit, const cJSON *members)
{
	const cJSON *member;

	cJSON_ArrayForEach(member, members)
	{
		const char *part = unreadable_part(member);

		if (part != NULL)
			MC_SQL("SELECT mailchimp_sync.push_unreadable($1, $2, $3, $4)",
				   mc_arg_int8(unit->inflight_id), mc_json_text_arg(member, "id"),
				   mc_json_text_arg(member, "email_address"), mc_arg_text(part));
	}
}

static void
accept_members(McUnit *unit, const cJSON *all)
{
	const cJSON *members = readable_members(all);

	if (cJSON_GetArraySize(all) == 0)
		return;
	MC_SQL("SELECT mailchimp_sync.tags_seen($1, $2, $3)", mc_arg_int8(unit->inflight_id),
		   mc_json_column(members, "id"), mc_json_column(members, "tags"));
	MC_SQL("SELECT mailchimp_sync.push_accepted($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(members, "id"),
		   mc_json_column(members, "email_address"), mc_json_column(members, "status"),
		   mc_json_column(members, "contact_id"), mc_json_column(members, "merge_fields"),
		   mc_json_column(members, "tags"), mc_json_column(members, "last_changed"));
	refuse_unreadable(unit, all);
}

static void
push_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	const cJSON *created = cJSON_GetObjectItemCaseSensitive(reply->json, "new_members");
	const cJSON *updated = cJSON_GetObjectItemCaseSensitive(reply->json, "updated_members");
	const cJSON *errors = cJSON_GetObjectItemCaseSensitive(reply->json, "errors");

	if (reply->status >= 400)
	{
		MC_SQL("SELECT mailchimp_sync.push_rejected($1, $2, $3, $4)",
			   mc_arg_int8(unit->inflight_id), mc_arg_int4(reply->status),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
		MC_SQL("SELECT mailchimp_sync.push_absent($1)", mc_arg_int8(unit->inflight_id));
		return;
	}
	accept_members(unit, created);
	accept_members(unit, updated);
	MC_SQL("SELECT mailchimp_sync.push_refused($1, $2, $3, $4, $5, $6)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(errors, "email_address"),
		   mc_json_column(errors, "error_code"), mc_json_column(errors, "error"),
		   mc_json_column(errors, "field"), mc_json_column(errors, "field_message"));
	MC_SQL("SELECT mailchimp_sync.push_unmentioned($1, $2 || $3, $4)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(created, "id"),
		   mc_json_column(updated, "id"), mc_json_column(errors, "email_address"));
	MC_SQL("SELECT mailchimp_sync.push_absent($1, $2 || $3)", mc_arg_int8(unit->inflight_id),
		   mc_json_column(created, "id"), mc_json_column(updated, "id"));
	MC_SQL("SELECT mailchimp_sync.audience_works(f.audience_id) FROM mailchimp_sync.inflight f "
		   "WHERE f.inflight_id = $1",
		   mc_arg_int8(unit->inflight_id));
}

const McKind mc_push_kind = {.name = "push", .spare = MC_SPARE_BULK, .apply = push_apply};
