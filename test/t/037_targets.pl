# Campaigns that aim at tags or at the whole audience (R38, R20, R71, D13, D15, D16, N2): what becomes recipients, and when;
# tags that people put on at Mailchimp, members without a contact, who was taken out, changes at every stage, a restore.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use JSON::PP ();
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 12);
my ($sim, $node) = @$crm{qw(sim node)};

$crm->ada(<<'SQL');
ALTER TABLE candidate ADD tags text[] DEFAULT '{}';
SELECT mc_add_source('candidate', 'candidate', 'id', 'email', '{"FNAME": "first_name"}', tags => 'tags',
	tag_rules => '{"Mailingen-ontvangen-nee": "first_name = ''No''"}', linked => 'linked', opt_out => 'opted_out');
CREATE TABLE person (code text PRIMARY KEY, email text, tags text[] DEFAULT '{}');
INSERT INTO person VALUES ('a', 'a@example.org', '{vip}'), ('b', 'P1@example.org', '{vip}'), ('c', 'c@example.org', '{}');
SELECT mc_add_source('person', 'person', 'code', 'email', tags => 'tags');
SELECT mc_add_audience_source('customers', 'person');
UPDATE candidate SET tags = '{vip}' WHERE id IN (1, 2, 3, 4);
UPDATE candidate SET tags = tags || '{no}'::text[] WHERE id IN (3, 6);
SQL

$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });

sub in_step
{
	$node->wait_until("SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event) AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE kind <> 'campaign')
		AND NOT EXISTS (SELECT FROM mc_contact_state WHERE state = 'pending' AND coalesce(detail, '') !~ 'guard')");
}

sub act { my ($name, $action, %more) = @_; $sim->post('/_sim/act', { list => $crm->{list}, email => "$name\@example.org", action => $action, %more }) }
sub draft { my ($name) = @_; return $crm->mia("SELECT mc_create_campaign('$name', 'customers', 'Newsletter', 'Mia', 'mia\@example.org')") }
sub tags { my ($campaign, $include, $exclude) = @_; return $crm->mia("SELECT mc_target_tags($campaign, '{$include}', '{" . ($exclude // '') . "}')") }

# Who was mailed: names before the @.
sub mails { my ($name) = @_; return join ' ', sort $crm->remains($name) =~ /(\S+)\@example\.org=1\b/g }

sub ends
{
	my ($campaign, $status) = @_;
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$crm->wait_status($campaign, $status // 'sent');
}

sub skipped
{
	my ($campaign) = @_;
	return $crm->mia("SELECT string_agg(concat_ws(' ', source, contact_key, skip_reason, detail), ', ' ORDER BY source, contact_key)
		FROM mc_campaign_recipient WHERE campaign_id = $campaign AND status = 'skipped'");
}

in_step();

# ---- tags: any of these, none of those (R38), of the mapping and of people at Mailchimp (D16), of several sources (R20, D13)

act('p5', 'tag', tag => 'VIP');
act('p2', 'tag', tag => 'no');
my $campaign = draft('Tags');
is(tags($campaign, ' Vip ', 'no'), 4, 'R38: how many it would be, as far as is known: 1, 2, 4 and a; of equal addresses one');
is($crm->mia("SELECT kind, include, exclude, foreign_members, resolved, set_by FROM mc_campaign_target WHERE campaign_id = $campaign"),
	'tags|{Vip}|{no}||f|mia', 'the target is shown');
like($crm->mia("SELECT heading FROM mc_check_campaign($campaign) WHERE ok"), qr/^its targets would take 4 contacts, as far as is known$/m,
	'and in mc_check_campaign');
is($crm->column($campaign, 'recipients + skipped'), 0, 'nobody is a recipient yet');
ends($campaign);
is(mails('Tags'), 'a p1 p4 p5', 'R38: mailed: one of the tags, by the mapping or by hand, and none of the others, by the mapping (3) or by hand (2)');
is(skipped($campaign), 'person b duplicate another recipient has the same address and comes first', 'D13: one mail to an address, and R20: kinds mixed');
is($crm->mia("SELECT resolved FROM mc_campaign_target WHERE campaign_id = $campaign"), 't', 'they are recipients now');
is($crm->super('SELECT count(*) FROM mailchimp_sync.target_hand'), 0, 'what was read for that is gone');

# ---- the newest state of the CRM counts, also a tag that is still, or was just now, at Mailchimp

$campaign = draft('Newest');
$crm->break_off;
is($crm->mia("SELECT mc_target_tags($campaign, '{vip}')"), 5, 'how many by what was shown last');
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 4; UPDATE candidate SET tags = '{vip}' WHERE id = 7;
	INSERT INTO candidate (id, email, tags) VALUES (13, 'p13\@example.org', '{vip}'), (14, 'p14\@example.org', '{vip}');
	SELECT mc_opt_out('candidate', 14)");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->run_engine;
$crm->wait_status($campaign, 'sent');
is(mails('Newest'), 'a p1 p13 p2 p3 p5 p7', 'R38: who has the tag when the recipients are fixed');
is(skipped($campaign), 'candidate 14 opted_out, person b duplicate another recipient has the same address and comes first', 'N2: who opted out is a skipped row');
in_step();
$crm->ada("UPDATE candidate SET tags = '{vip}' WHERE id = 4");
in_step();
$campaign = draft('Taken');
tags($campaign, 'vip');
$sim->hold(method => 'GET', path => '/segments/\d+/members', when => 'after');
my $since = ($sim->journal)[-1]{n};
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 4");
McTest::poll('the tag to be taken away', sub { $sim->journal(since => $since, method => 'POST', path => '/segments/\d+$') });
in_step();
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Taken'), 'a p1 p13 p2 p3 p5 p7', 'a page that shows a tag of ours that was taken away meanwhile is no hand\'s');

# ... one that a push has brought there whose answer is not known yet, and who is in the archive, whom no segment shows

act('p8', 'tag', tag => 'no');
$crm->ada("UPDATE candidate SET first_name = 'shows its tags' WHERE id = 8");
in_step();
$crm->ada("UPDATE candidate SET in_rule = false WHERE id = 8");
$crm->ada("UPDATE candidate SET tags = '{late}' WHERE id = 9");
in_step();
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 9");
in_step();
$campaign = draft('Late');
tags($campaign, 'late,vip', 'no');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', body => 'p8@', when => 'before');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', body => 'p9@', when => 'after');
$crm->ada("UPDATE candidate SET tags = '{late}' WHERE id = 9");
$sim->wait_held;
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 9");
$crm->ada("UPDATE candidate SET in_rule = true, tags = '{vip}' WHERE id = 8");
$crm->mia("SELECT mc_send_campaign($campaign)");
$node->wait_until("SELECT phase NOT IN ('checking', 'aiming', 'choosing') FROM mc_progress WHERE campaign_id = $campaign");
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Late'), 'a p1 p13 p5 p7', 'tags of ours that are on their way, and tags of members in the archive');
in_step();
$crm->ada("UPDATE candidate SET in_rule = false WHERE id = 8");
in_step();
$campaign = draft('Back');
tags($campaign, 'vip', 'no');
my ($no) = grep { $_->{name} eq 'no' } @{ $sim->get("/_sim/segments/$crm->{list}")->{segments} };
$sim->hold(method => 'GET', path => "/segments/$no->{id}/members", when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->ada("UPDATE candidate SET in_rule = true WHERE id = 8");
in_step();
is($crm->mia("SELECT status FROM mc_member WHERE email = 'p8\@example.org'"), 'subscribed', 'back from the archive since the segment was read');
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Back'), 'a p1 p13 p5 p7', 'and its tags are known');
act('p8', 'untag', tag => 'no');
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 8");
in_step();

# ---- tags that nobody knows (a slip of the finger), that nobody has, and no target at all

$campaign = draft('Typo');
like($node->error("DO \$\$ BEGIN PERFORM mc_target_tags($campaign, '{vip}', '{Mailingen-ontvangen-ne}'); RAISE 'enough'; END \$\$", as => 'mia'),
	qr/NOTICE: .* no contact of the audience was given tag "Mailingen-ontvangen-ne" yet.*HINT:  Perhaps you meant "Mailingen-ontvangen-nee"\./s, 'a tag that is not known: a notice with the nearest');
tags($campaign, 'vip', 'Mailingen-ontvangen-ne');
ends($campaign, 'failed');
is($crm->column($campaign, 'last_error'), 'unknown tag: no contact of the audience has "Mailingen-ontvangen-ne", and Mailchimp does not know it; '
	  . 'aim again with mc_target_tags. Perhaps you meant "Mailingen-ontvangen-nee".', 'R38: nobody is mailed who may have been meant to be left out');
is(tags($campaign, 'vip', 'Mailingen-ontvangen-nee'), 6, 'aimed again: the tag of a rule that holds for nobody now is known');
ends($campaign);
is(mails('Typo'), 'a p1 p13 p2 p3 p5 p7', 'and sent');
act('stranger', 'add', tags => ['theirs']);
$campaign = draft('Nobody');
tags($campaign, 'theirs');
ends($campaign, 'failed');
is($crm->column($campaign, 'last_error'), 'nobody is left to mail: its targets take nobody of the audience', 'R38: an empty result fails with a reason; a tag takes no member without a contact (D15)');
$crm->ada("UPDATE candidate SET tags = '{theirs}' WHERE id = 8");
ends($campaign);
is(mails('Nobody'), 'p8', 'taken up again when somebody has it');
$campaign = draft('None');
tags($campaign, '', 'no');
like($node->error("SELECT mc_send_campaign($campaign)", as => 'mia'), qr/it has no recipients\nHINT:  Add some with mc_add_recipients, or aim it with mc_target_tags or mc_target_audience/,
	'tags that are left out take nobody in');

# ---- the whole audience, only when said; tags that are left out; named ones beside it; who was taken out stays out

$crm->ada("INSERT INTO candidate (id, email, in_rule) VALUES (20, 'p20\@example.org', false), (21, 'p21\@example.org', false);
	SELECT mc_add_member('customers', 'candidate', 21), mc_remove_member('customers', 'candidate', 12)");
$campaign = draft('All');
is($crm->mia("SELECT mc_target_audience($campaign)") > 10, 1, 'how many');
tags($campaign, '', 'no,Vip');
is($crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{1,7,20}')"), 3, 'named ones, one of them outside, two with a tag that targets leave out');
is($crm->mia("SELECT mc_remove_recipients($campaign, 'candidate', '{7,9}')"), 2, 'taken out: one who was named and one whom the target would bring');
is($crm->mia("SELECT mc_opt_out('candidate', 10)"), '', 'opted out before');
$sim->hold(method => 'GET', path => 'send-checklist', when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_opt_out_email('p11\@example.org')");
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('All'), 'c p1 p20 p21 p4 p8', 'R71: all but those with the tags, whom somebody took out (7, 9, 12), and opt-outs (N2); and those who were named');
is(skipped($campaign), 'candidate 10 opted_out, candidate 11 opted_out', 'N2: both are skipped');

# ---- a tag that is deleted at Mailchimp, an answer that is lost, and a crash, while it is read

act('p21', 'tag', tag => 'gone');
$campaign = draft('Gone');
tags($campaign, 'gone,theirs');
$sim->hold(method => 'GET', path => '/tag-search', when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
my ($tag) = grep { $_->{name} eq 'gone' } @{ $sim->get("/_sim/segments/$crm->{list}")->{segments} };
$sim->post('/_sim/act', { list => $crm->{list}, action => 'delete_segment', segment => $tag->{id} });
$sim->fault(method => 'GET', path => '/segments/\d+/members', fault => 'cut');
$sim->release;
$sim->hold(method => 'GET', path => '/segments/\d+/members', when => 'after');
$sim->wait_held;
$node->stop('immediate');
$node->start;
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Gone'), 'p8', 'R38: nobody has a tag that is gone');

# ---- prepared: whoever is fixed stays, whatever becomes of the tags

$campaign = draft('Fixed');
tags($campaign, 'vip', 'no');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$crm->ada("UPDATE candidate SET tags = '{}' WHERE id = 1; UPDATE candidate SET tags = '{vip}' WHERE id = 8");
like($node->error("SELECT mc_target_tags($campaign, '{vip}')", as => 'mia'), qr/cannot change the recipients of campaign $campaign: it is prepared/, 'aimed no more');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"subject\": \"Other\"}')");
$crm->wait_status($campaign, 'prepared');
ends($campaign);
is(mails('Fixed'), 'a p1 p13 p5 p7', 'R38: resolved once');

# ---- failed when the segment was filled, aimed anew: who is no target any more leaves the segment

$crm->ada("UPDATE candidate SET tags = '{vip}' WHERE id = 1; UPDATE candidate SET tags = '{other}' WHERE id IN (7, 8)");
in_step();
$campaign = draft('Anew');
tags($campaign, 'vip');
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{4}')");
$sim->fault(method => 'GET', path => 'send-checklist', fault => { type => 'status', status => 400, json => JSON::PP::true });
ends($campaign, 'failed');
is(scalar(@{ ($crm->segments('Anew'))[0]{emails} }), 7, 'they are in the segment');
tags($campaign, 'other', 'no');
ends($campaign);
is(mails('Anew'), 'p4 p7 p8', 'R38: the new target, and who was named');
is($crm->mia("SELECT count(*), min(detail), max(detail) FROM mc_campaign_recipient WHERE campaign_id = $campaign AND status = 'skipped'"),
	'6|the campaign does not aim at it any more|the campaign does not aim at it any more', 'the others are out of the segment');

# ---- members without a contact (D15): only when said

sub bring
{
	my ($tags, @names) = @_;
	while (my @page = splice @names, 0, 500)
	{
		my $answer = $sim->{http}->post($sim->url . "/3.0/lists/$crm->{list}", { headers => { authorization => 'Bearer demo-us1', 'content-type' => 'application/json' },
			content => JSON::PP::encode_json({ members => [ map +{ email_address => "$_\@example.org", status => 'subscribed', tags => $tags }, @page ] }) });
		is($answer->{status}, 200, 'members of others');
	}
}

bring(['cold'], map "cold$_", 1 .. 1050);
bring([], map "warm$_", 1 .. 5);
bring([], 'p22', 'p23');
$crm->ada("INSERT INTO candidate (id, email, in_rule) VALUES (22, 'p22\@example.org', false)");
$crm->mia("SELECT mc_opt_out_email('warm2\@example.org')");
$campaign = draft('Foreign');
$crm->mia("SELECT mc_target_audience($campaign, foreign_members => true)");
tags($campaign, '', 'vip,other,no,cold,theirs');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
is($crm->mia("SELECT string_agg(concat_ws(' ', coalesce(source, '-'), split_part(email, '\@', 1), status, skip_reason), ', ' ORDER BY source NULLS FIRST, email)
	FROM mc_campaign_recipient WHERE campaign_id = $campaign AND coalesce(source, 'person') <> 'candidate'"),
	'- p23 pending, - warm1 pending, - warm2 skipped opted_out, - warm3 pending, - warm4 pending, - warm5 pending, person c pending',
	'D15: they are recipients without a source; not the address of somebody in the CRM whom the rule does not take (22), nor those with a tag that is left out; N2: one opted out');
act('warm3', 'unsubscribe');
$crm->later(700);
$node->wait_until("SELECT status = 'unsubscribed' FROM mc_member WHERE email = 'warm3\@example.org'");
$crm->mia("SELECT mc_opt_out_email('warm4\@example.org')");
McTest::poll('warm4 to leave the segment', sub { !grep { $_ eq 'warm4@example.org' } map { @{ $_->{emails} } } $crm->segments('Foreign') });
ends($campaign);
is(mails('Foreign'), 'c p20 p21 p23 p4 p9 warm1 warm5', 'D15, N2: mailed, but for those who have left since');
is($crm->mia("SELECT string_agg(concat_ws(' ', split_part(email, '\@', 1), skip_reason, detail), ', ' ORDER BY email) FROM mc_campaign_recipient
	WHERE campaign_id = $campaign AND source IS NULL AND status = 'skipped'"), 'warm2 opted_out, warm3 unsubscribed unsubscribed at Mailchimp, warm4 opted_out', 'with the reason');
is($crm->mia("SELECT string_agg(split_part(email, '\@', 1), ' ' ORDER BY email) FROM mc_member WHERE foreign_member AND email NOT LIKE 'cold%'"), 'p22 p23 stranger warm1 warm2 warm3 warm4 warm5',
	'they are known as members, and nobody\'s');
my %theirs = map { md5_hex("$_\@example.org") => $_ } 'stranger', 'p22', 'p23', map "warm$_", 1 .. 5;
is(join(' ', map { $_->{path} =~ m{/members/(\w+)} && $theirs{$1} ? "$_->{method} $theirs{$1}" : () } grep { $_->{method} ne 'GET' } $sim->journal), 'PATCH warm4',
	'D15: none of them was changed, but by opting out');
$sim->post('/_sim/events', { campaign => $crm->column($campaign, 'mailchimp_id'), email => 'warm1@example.org', action => 'open' });
$crm->mia("SELECT mc_poll_campaign($campaign)");
$node->wait_until("SELECT status = 'opened' FROM mc_campaign_recipient WHERE campaign_id = $campaign AND email = 'warm1\@example.org'");
is($crm->mia("SELECT source, contact_key, type FROM mc_activity WHERE campaign_id = $campaign"), '||opened', 'results come to them, too');

# ---- erased, they are nobody any more

$crm->ada("SELECT mc_erase_contact('warm5\@example.org')");
$node->wait_until('SELECT count(*) = 0 FROM mc_erasure WHERE done_at IS NULL');
is($crm->super(sprintf "SELECT count(*) FILTER (WHERE '%s' IN (contact_key, email_hash)), count(*) FILTER (WHERE email IS NULL) FROM mailchimp_sync.recipient
	WHERE campaign_id = $campaign AND source_id = 0", md5_hex('warm5@example.org')), '0|1', 'no trace of who was erased, but that somebody got it');

# ---- taking out a member without a contact

$campaign = draft('Out');
$crm->mia("SELECT mc_target_audience($campaign, true), mc_target_tags($campaign, '{}', '{vip,other,no,cold,theirs}')");
$crm->mia("DELETE FROM mc_campaign_recipient WHERE campaign_id = $campaign");
my $copy = $crm->mia("SELECT mc_copy_campaign($campaign)");
is($crm->mia("SELECT string_agg(concat_ws(' ', kind, include, exclude, foreign_members), ', ' ORDER BY kind) FROM mc_campaign_target WHERE campaign_id = $copy"),
	'audience t, tags {} {vip,other,no,cold,theirs}', 'a copy aims at the same');
$crm->mia("SELECT mc_target_audience($copy, NULL), mc_target_tags($copy, NULL, NULL)");
is($crm->mia("SELECT count(*) FROM mc_campaign_target WHERE campaign_id = $copy"), 0, 'null takes a target away');

# ---- whom the guard holds no target brings in (N6)

$crm->ada("INSERT INTO candidate (id, email) SELECT i, 'p' || i || '\@example.org' FROM generate_series(101, 170) i;
	INSERT INTO candidate (id, email, in_rule) SELECT i, 'p' || i || '\@example.org', i > 2000 FROM generate_series(1001, 2001) i");
$node->wait_until("SELECT state = 'guard_stopped' FROM mc_audience");
in_step();
$campaign = draft('Held');
$crm->mia("SELECT mc_target_audience($campaign)");
tags($campaign, '', 'vip,other,no,theirs');
ends($campaign);
is(mails('Held'), 'c p20 p21 p4 p9', 'N6: mailed are those who were there');
is($crm->mia("SELECT skip_reason, detail, count(*) FROM mc_campaign_recipient WHERE campaign_id = $campaign AND contact_key::int > 100 AND source = 'candidate' GROUP BY 1, 2"),
	'not_member|is held by the mass-change guard|71', 'the others are skipped; the last one comes on a page of its own');

# ---- a restore: targets are dumped, and resolved where they were not (N14)

$campaign = draft('Copied');
tags($campaign, 'vip', 'no');
$crm->mia("SELECT mc_remove_recipients($campaign, 'candidate', '{13}')");
my $fixed = draft('Kept');
tags($fixed, 'other');
$crm->mia("SELECT mc_prepare_campaign($fixed)");
$crm->wait_status($fixed, 'prepared');
my $dump = $crm->dump;
$crm->stop_engine;
my $there = $crm->restore($dump, 'there');
$there->super('SELECT mc_resume()');
$there->ada("UPDATE candidate SET tags = '{}' WHERE id = 7");
$there->mia("SELECT mc_send_campaign($_)") for $campaign, $fixed;
$there->run_engine;
$there->wait_status($_, 'sent') for $campaign, $fixed;
is(mails('Copied'), 'a p1 p5', 'a copy finds out whom it aims at, and who was taken out stays out');
is(mails('Kept'), 'p7 p8', 'whoever was fixed before stays');

$there->stop_engine;
$node->stop;
done_testing();
