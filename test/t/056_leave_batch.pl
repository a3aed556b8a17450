# Many contacts that leave at once go to Mailchimp together (R58, R74, D9, D20, N5, N6, N8): as batch operations, verified by
# who is archived then; those whom a batch does not take away leave one by one. What happens to them meanwhile.

use strict;
use warnings;
use JSON::PP;
use McLeave;
use McTest;
use Test::More;

my $many = McLeave->start('main', candidates => 1120);
my ($crm, $node, $sim) = @$many{qw(crm node sim)};

# -----------------------------------------------------------------------------------------------------------------
# Out and back
# -----------------------------------------------------------------------------------------------------------------

# Fewer than 500 leave one by one.
$many->leave('id > 1115');
$many->quiet(0);
is($many->work, 'leave DELETE 5', 'few leave one by one');

$many->leave('id <= 1000');
$node->wait_until("SELECT state = 'guard_stopped' FROM mc_audience");
is($many->work, '', 'N6: the guard holds them first');
$many->finish;		# which approves
is($many->posted, '1000', 'R58, R74: many leave together, so many in one batch');
is($many->work, 'batch GET 2, batch POST 1', 'one look, and one page of those that are archived');
is($many->count('archived', 'true'), 1005, 'D9: all are archived');
is($crm->status, 'in_sync 115 outside 1005', 'and outside');
is($crm->rita("SELECT count(*) FROM mc_member WHERE status = 'archived' AND NOT active"), 1005, 'mc_member knows');
is($many->states, 'finished', 'the batch has come to its end');

$many->back('true');
$many->quiet(0);
is($many->work, 'push POST 3', 'they come back as others do');
is($many->count('subscribed', 'true'), 1120, 'subscribed again, for it was we who archived them');
is($crm->status, 'in_sync 1120', 'all in sync');
$many->posted;

# -----------------------------------------------------------------------------------------------------------------
# While it runs
# -----------------------------------------------------------------------------------------------------------------

$many->config(batch_until => 'started');
$many->leave('id <= 600');
$many->quiet(1);
is($crm->status, 'in_sync 520 pending 600', 'N8: the states add up while it runs');
is($crm->state(1), 'pending|the rule does not take it', 'who is in it waits');
is($node->query("SELECT mailchimp_sync.guard_room(audience_id, 'leave') FROM mailchimp_sync.audience"), 0, 'N6: and uses up what was approved');
McTest::poll('half of it', sub { $many->count('archived', 'id <= 600') == 300 });
pass('half of it is done');
my %members = $crm->members;
my (@out, @in);
push @{ $members{"c$_\@crm.test"}{status} eq 'archived' ? \@out : \@in }, $_ for 1 .. 600;

# Two each of those who are archived already and of those who are not yet. Numbers by what they do.
my %do = map { $_ => [ splice(@out, 0, 2), splice(@in, 0, 2) ] } qw(back opt_out move give);
my ($unsubscribed, $colleague) = splice(@in, 0, 2);
my $list = sub { join ',', @{ $do{ $_[0] } } };
$many->work;
$crm->ann("UPDATE crm.candidate SET active = true WHERE id IN (" . $list->('back') . ')');
$crm->ann("UPDATE crm.candidate SET active = true, email = 'moved' || id || '\@crm.test' WHERE id IN (" . $list->('move') . ')');
$crm->ann("INSERT INTO crm.candidate SELECT id + 2000, 'Heir', 'L', email, 1, true, true, '{g1}' FROM crm.candidate WHERE id IN (" . $list->('give') . ')');
$crm->max("SELECT mc_opt_out('candidate', id) FROM unnest(ARRAY[" . $list->('opt_out') . ']) id');
$crm->act("c$unsubscribed", 'unsubscribe');
$crm->act("c$colleague", 'admin_unsubscribe');
my $campaign = $crm->max("SELECT mc_create_campaign('News', 'people', 'Newsletter', 'Demo', 'news\@example.org')");
$crm->max("SELECT mc_add_recipients($campaign, 'candidate', ARRAY[1119, " . $list->('back') . "]); SELECT mc_send_campaign($campaign)");
$many->quiet(1);
is(join(' ', map { $crm->state($_) =~ s/\|.*//r } @{ $do{back} }), 'pending pending pending pending', 'who comes back waits for its end');
is($many->work =~ s/batch GET \d+, //r, 'opt_out PATCH 4', 'D12: who opts out is told to Mailchimp at once, nothing else is');
is(join(' ', sort map { $crm->member("c$_\@crm.test")->{status} } @{ $do{opt_out} }), 'archived archived unsubscribed unsubscribed', 'before or after it is archived');
$crm->later(61);
$node->wait_until("SELECT mc_is_opted_out('candidate', $unsubscribed) AND mc_is_opted_out('candidate', $colleague)");
pass('R45: who unsubscribes there meanwhile, or is unsubscribed by a colleague, is heard, within a minute');
is($crm->rita('SELECT status FROM mc_campaign'), 'preparing', 'a campaign with one of them waits, too');
$many->finish;
is($many->posted, '600', 'one batch');
$node->wait_until("SELECT status = 'sent' FROM mc_campaign");
is(join(' ', sort map { $_->{email} } @{ $sim->get('/_sim/mails')->{mails} }), join(' ', sort map { "c$_\@crm.test" } 1119, @{ $do{back} }),
	'and mails all of them');
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ s/\|.*//r } @{ $do{back} }), 'subscribed subscribed subscribed subscribed', 'who came back is brought back when it is over');
is(join(' ', map { $crm->shown("moved$_\@crm.test") =~ s/\|.*//r } @{ $do{move} }), 'subscribed subscribed subscribed subscribed', 'also under another address');
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ s/\|.*//r } @{ $do{move} }), 'archived archived archived archived', 'the former one has left');
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ s/\|[g\d,]+$//r } @{ $do{give} }), join(' ', ('subscribed|Heir') x 4), 'who takes over an address is subscribed');
is($crm->rita('SELECT count(*) FROM mc_group_member WHERE contact_key::int IN (' . $list->('opt_out') . ", $unsubscribed, $colleague)"), 6, 'who opted out stays so');
my $subscribed = sub { my %now = $crm->members; return scalar grep { $now{"c$_\@crm.test"}{status} eq 'subscribed' } $unsubscribed, $colleague, @{ $do{opt_out} } };
is($subscribed->(), 0, 'and none of them is subscribed');
is($crm->status, 'in_sync 532 outside 592', 'the states add up');

# Who opted out comes back to the rule and leaves the group: the batch has hidden what they were, and they stay out. The former owners come first again, and nothing more is to be done, also when all is compared.
$crm->max("SELECT mc_opt_in('candidate', contact_key) FROM mc_group_member");
$many->back('true');
$many->quiet(0);
$crm->ann('DELETE FROM crm.candidate WHERE id > 2000');
$many->quiet(0);
$many->work;
$crm->max("SELECT mc_sync_audience('people')");
$node->wait_until("SELECT compared_at > now() FROM mc_audience");
$many->quiet(0);
is($many->work, '', 'D20: once');
is($subscribed->(), 0, 'D12: who opted out before the batch archived them is not subscribed by coming back');

# -----------------------------------------------------------------------------------------------------------------
# Operations that fail, and people who are not there any more
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/act', { list => $crm->{list}, email => "c$_\@crm.test", action => 'delete_permanent' }) for 1001, 1002;
$sim->post('/_sim/act', { list => $crm->{list}, email => 'c1003@crm.test', action => 'archive' });
$crm->later(5);
$sim->fault(method => 'DELETE', path => '/members/', nth => 10, times => 3, fault => { type => 'status', status => 400, json => JSON::PP::true });
$many->leave('id BETWEEN 600 AND 1120');
$many->finish;
is($many->posted, '520', 'all at once, but for who was archived already');
is($many->work, 'batch GET 2, batch POST 1, leave DELETE 5', 'whom the batch did not take away leave one by one');
is($many->count('archived', 'id BETWEEN 600 AND 1120'), 519, 'all are archived, but for those who were deleted');
is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE state = 'outside' AND contact_key::int BETWEEN 600 AND 1120"), 521, 'that is known of each');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'and nothing has failed');

# Somebody in the app has archived 1003, who has the say then, and deleted two for ever.
$many->back('id BETWEEN 600 AND 1120');
$many->quiet(0);
is($many->count('subscribed', 'id BETWEEN 600 AND 1120'), 518, 'D20: back again, but for those');
is($crm->state(1003), 'inactive|archived at Mailchimp', 'who was archived there is not brought back');

# -----------------------------------------------------------------------------------------------------------------
# The policy unsubscribe
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "unsubscribe"}')});
$many->quiet(0);
$many->work;
$many->one_by_one('PATCH', 'id <= 600');
like($many->work, qr/^leave PATCH \d+(, push POST \d)?$/, 'one by one: nobody could tell whom a batch has unsubscribed');
is($crm->rita('SELECT count(*) FROM mc_group_member'), 0, 'nobody has opted out by that');
$many->back('true');
$many->quiet(0);
is($many->work, '', 'unsubscribed ones do not come back by themselves');

# -----------------------------------------------------------------------------------------------------------------
# A page of statuses that was asked for before somebody left, and comes after it
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "archive"}'); UPDATE crm.candidate SET first_name = 'New' WHERE id = 700});
$many->quiet(0);
my $leave = $sim->hold(method => 'DELETE', path => '/members/', when => 'before');
$many->leave('id = 700');
$sim->wait_held;
$sim->hold(method => 'GET', path => '/members$', when => 'after');
$many->leave('id = 701');
$sim->wait_held(2);
$sim->release(hold => $leave);
$node->wait_until("SELECT state = 'outside' FROM mc_contact_state WHERE contact_key = '700'");
$sim->release;
$many->quiet(0);
$many->back('id = 700');
$many->quiet(0);
is($crm->shown('c700@crm.test') =~ s/\|g\d$//r, 'subscribed|New', 'an old page does not hide that it was we who archived them');

# -----------------------------------------------------------------------------------------------------------------
# Out, and with another address at the same time, and back
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("UPDATE crm.candidate SET active = false, email = CASE WHEN id IN (801, 802) THEN 'new' || id || '\@crm.test' ELSE email END
	WHERE id BETWEEN 601 AND 1119");
$many->wait_until('SELECT EXISTS (SELECT FROM mailchimp_sync.batch)');
$many->finish;
$crm->act('c802', 'unsubscribe');		# by an old mail
$crm->later(660);
$node->wait_until("SELECT mc_is_opted_out('candidate', 802)");
$crm->max("SELECT mc_opt_in('candidate', 802)");
$many->back('true');
$many->quiet(0);
is($crm->shown('new801@crm.test') =~ s/\|.*//r, 'subscribed', 'who left by a batch comes back with another address');
is($crm->state(802) . ' ' . $crm->shown('new802@crm.test'), 'inactive|unsubscribed at Mailchimp under its former address none||',
	'D10: but not who has unsubscribed under the former one');

done_testing();
